#!/usr/bin/env bash
# Resolves requirements-engine.in anew into requirements-engine.lock: run `tools/lock_engine.sh` after changing it.
# torch is left out of the lock: its file differs between processors and graphics cards, so no one hash fits every node.
# It is installed by its exact version after the rest, whose hashes are required.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --requirement requirements-engine.in
"$scratch/venv/bin/pip" freeze --all --exclude torch --exclude pip | grep -v '^nvidia-' > "$scratch/frozen.txt"
"$(command -v .venv/bin/uv || command -v uv)" pip compile --quiet --no-deps --no-annotate --generate-hashes --no-emit-index-url \
  --custom-compile-command 'tools/lock_engine.sh' "$scratch/frozen.txt" -o requirements-engine.lock
