#!/usr/bin/env bash
# Makes the environment of `transformers serve`: tools/engines/transformers.sh DIR [LOCK PINS], then DIR/bin/transformers serve …
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
directory=$(realpath -m "${1:?usage: transformers.sh DIR [LOCK PINS]}") lock=${2:-$here/transformers.lock} pins=${3:-$here/transformers.in}
"${PYTHON:-python3}" -m venv "$directory"
# --isolated would drop the machine's own index settings; everything but torch must match its hash.
install=("$directory/bin/python" -m pip install --disable-pip-version-check --progress-bar off)
"${install[@]}" --no-deps --require-hashes -r "$lock"
# The exact version of torch. It has no hash: its file differs between processors and graphics cards.
"${install[@]}" "$(grep '^torch==' "$pins")"
echo "Checking the environment"
"$directory/bin/python" -c "import torch, uvicorn, transformers.cli.serve"
