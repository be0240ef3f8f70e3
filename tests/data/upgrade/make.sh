#!/bin/sh
# Makes NAME.tar.xz here: a data directory as the build in .venv writes it, and what of it a later build is to
# find (expected.json). Everything in it is made for this test and protects nothing.
#
#   tests/data/upgrade/make.sh NAME
#
# Runs in a network of its own, whose free ports are 21000 to 21199: the fleet's ports are signed into its roster,
# and on the machine of the test nobody else should be given them. Needs unshare, ip, GNU tar, xz.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
name=${1:?usage: make.sh NAME}
if [ -z "${IN_NETWORK:-}" ]; then
    IN_NETWORK=1 exec unshare --map-root-user --net "$0" "$name"
fi
ip link set lo up
echo 21000 21199 > /proc/sys/net/ipv4/ip_local_port_range

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
data=$work/data
PATH=$root/.venv/bin:$PATH
quorate up --detach --nodes 3 --threshold 2 --port 0 --data "$data"
env -i PATH="$PATH" sh -c "eval \"\$(quorate env --data '$data')\"; python '$here/make.py' '$data' '$work/expected.json'"
quorate down --data "$data"

# Of this machine, and made anew by `up`: its certificates' bundle, logs, the lock.
rm -rf "$data/ca-bundle.pem" "$data/logs" "$data/up.lock"
tar --create --directory "$work" --sort=name --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner \
    data expected.json | xz --extreme > "$here/$name.tar.xz"
ls -l "$here/$name.tar.xz"
