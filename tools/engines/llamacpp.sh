#!/usr/bin/env bash
# Makes a `llama-server` for a machine without a graphics card: tools/engines/llamacpp.sh DIR [LOCK PINS], then
# DIR/bin/llama-server … Machines with one run the engine's image, or a `llama-server` of their own on the path.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
directory=$(realpath -m "${1:?usage: llamacpp.sh DIR [LOCK PINS]}") lock=${2:-$here/llamacpp.lock}
"${PYTHON:-python3}" -m venv "$directory"
# --isolated would drop the machine's own index settings.
"$directory/bin/python" -m pip install --disable-pip-version-check --progress-bar off --no-deps --require-hashes --only-binary :all: -r "$lock"
{ echo "#!$directory/bin/python"; cat "$here/llamacpp_server.py"; } > "$directory/bin/llama-server"
chmod +x "$directory/bin/llama-server"
echo "Checking the environment"
"$directory/bin/llama-server" --version
