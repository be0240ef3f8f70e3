#!/bin/sh
# Prints the first Python of 3.11 or later that can make a virtual environment: $PYTHON, the system's, those on PATH.
# The system's comes first, because distributors optimise theirs by profile and link it statically, and a home-built
# one often is not: a cold session takes a tenth less time (make bench).
for python in ${PYTHON:-/usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11}; do
    if command -v "$python" >/dev/null 2>&1 &&
        "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "$python"
        exit 0
    fi
done
echo "setup: Python 3.11 or later with its venv module is needed; install it, then run this again" >&2
exit 1
