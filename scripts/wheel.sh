#!/bin/sh
# Builds the wheel that is shipped, with the pinned maturin of .venv, and prints its path and size.
# WHEEL_PROFILE: the cargo profile (release). WHEEL_DIR: where it goes (dist).
set -eu
cd "$(dirname "$0")/.."
dir=${WHEEL_DIR:-dist}
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
VIRTUAL_ENV="$PWD/.venv" .venv/bin/maturin build --quiet --locked --profile "${WHEEL_PROFILE:-release}" --out "$fresh" >&2
mkdir -p "$dir"
for wheel in "$fresh"/*.whl; do
    mv "$wheel" "$dir/"
    built=$dir/$(basename "$wheel")
    echo "$built $(wc -c <"$built") bytes"
done
