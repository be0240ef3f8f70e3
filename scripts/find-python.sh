#!/bin/sh
# Prints the first Python of 3.11 or later on PATH.
for python in python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$python" >/dev/null 2>&1 &&
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "$python"
        exit 0
    fi
done
echo "setup: Python 3.11 or later is needed; install it, then run this again" >&2
exit 1
