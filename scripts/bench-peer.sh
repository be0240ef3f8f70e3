#!/bin/sh
# Installs moto_server, which `make bench` compares with, into an environment of its own: .venv/peer.
set -eu
cd "$(dirname "$0")/.."
if ! cmp -s bench/peer.txt .venv/peer/installed.txt; then
    printf 'bench: installing moto_server\n' >&2
    .venv/bin/python -m venv .venv/peer
    .venv/peer/bin/python -m pip install --quiet --disable-pip-version-check --requirement bench/peer.txt
    cp bench/peer.txt .venv/peer/installed.txt
fi
