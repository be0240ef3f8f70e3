#!/bin/sh
# Builds .venv: the pinned packages, then quorate with its compiled core. Run again at any time: only what changed is done.
set -eu
cd "$(dirname "$0")/.."
say() { printf 'setup: %s\n' "$*" >&2; }

scripts/system-packages.sh
python=$(scripts/find-python.sh)

if [ ! -x .venv/bin/python ]; then
    say "making .venv with $($python --version)"
    "$python" -m venv .venv
fi
if ! cmp -s constraints.txt .venv/installed.txt; then
    say "installing the pinned packages"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement constraints.txt
    cp constraints.txt .venv/installed.txt
fi
say "building the core (a few minutes the first time)"
log=.venv/build.log
if ! VIRTUAL_ENV="$PWD/.venv" .venv/bin/maturin develop --locked >"$log" 2>&1; then
    cat "$log" >&2
    say "the core could not be built; its messages are above and in $log"
    exit 1
fi
say "done: .venv/bin/quorate"
