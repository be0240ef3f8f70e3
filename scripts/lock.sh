#!/bin/sh
# Pins what .venv holds now; review the difference before committing it.
set -eu
cd "$(dirname "$0")/.."
{
    # shellcheck disable=SC2016
    echo '# Every Python package of the development environment, pinned. Written by `make lock`.'
    .venv/bin/python -m pip freeze --exclude-editable --disable-pip-version-check
} >constraints.txt
