#!/bin/sh
# Installs the system's packages that the build needs, and with `tests` those that the tests need, where they are
# missing (Debian and its kin).
set -eu
missing=""
command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
"$(dirname "$0")/find-python.sh" >/dev/null 2>&1 || missing="$missing python3 python3-venv"
[ "${1:-}" != tests ] || command -v gcore >/dev/null 2>&1 || missing="$missing gdb"
[ "${1:-}" != tests ] || command -v strace >/dev/null 2>&1 || missing="$missing strace"
if [ -n "$missing" ]; then
    echo "setup: installing$missing" >&2
    as_root=""
    [ "$(id -u)" = 0 ] || as_root="sudo"
    # shellcheck disable=SC2086
    $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends $missing >&2
fi
if ! command -v cargo >/dev/null 2>&1; then
    echo "setup: Rust 1.89 or later is needed (cargo was not found); install it from https://rustup.rs, then run this again" >&2
    exit 1
fi
