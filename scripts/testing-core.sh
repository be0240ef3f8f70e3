#!/bin/sh
# Builds the core with its `testing` feature into .venv/testing/quorate, everything else there being links to
# src/quorate. PYTHONPATH=.venv/testing runs a process on it; nothing shipped ever holds it.
set -eu
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/core/target}
# What maturin told pyo3 about Python: told something else, pyo3 and the core would be built anew each time.
PYO3_CONFIG_FILE=$(find "$target/maturin" -name 'pyo3-config-*.txt' | head -n 1)
export PYO3_CONFIG_FILE
cargo build --quiet --manifest-path core/Cargo.toml --locked --features testing,extension-module
dir=.venv/testing/quorate
rm -rf "$dir"
mkdir -p "$dir"
for entry in src/quorate/*; do
    case $entry in *.so | *__pycache__) continue ;; esac
    ln -s "$PWD/$entry" "$dir/"
done
cp "$target/debug/libquorate_core.so" "$dir/_core.abi3.so"
