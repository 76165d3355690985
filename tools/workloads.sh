#!/usr/bin/env bash
# Builds the image of an engine: tools/workloads.sh transformers|vllm|triton|llamacpp [BASE] [TAG], then AIOPS_IMAGE_TRANSFORMERS=TAG on a node.
# BASE holds the engine already (vllm/vllm-openai, tritonserver, llama.cpp:server), or Python with venv; without one, a Debian is made by debootstrap.
# Nothing is fetched while the image is built: the engine's lock becomes a wheelhouse outside, kept below ~/.cache/aiops.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
name=${1:?usage: tools/workloads.sh transformers|vllm|triton|llamacpp [BASE] [TAG]} base=${2:-} tag=${3:-aiops/$1:latest}
recipe=$here/engines/$name dockerfile=$here/../workloads/$name/Dockerfile python=${PYTHON:-python3}
[ -e "$dockerfile" ] && [ -e "$recipe.lock" ] || { echo "there is no engine $name with a Dockerfile and a lock" >&2; exit 1; }
cache=${AIOPS_CACHE:-$HOME/.cache/aiops}
mkdir -p "$cache"

# The Dockerfiles mount the wheelhouse, so that it is no layer of the image. That takes BuildKit: part of the client before version 23,
# a plugin of it since.
can_mount() { "$1" buildx version >/dev/null 2>&1 || [ "$("$1" version --format '{{.Client.Version}}' 2>/dev/null | cut -d. -f1)" -lt 23 ]; }
docker=docker
can_mount "$docker" || docker=/usr/bin/docker
can_mount "$docker" || { echo "install docker-buildx, or Debian's docker.io: the client that is here cannot build with mounts" >&2; exit 1; }

if [ -z "$base" ]; then
  base=aiops/base:engines
  "$docker" image inspect "$base" >/dev/null 2>&1 || "$docker" import "$("$here/images/base.sh")" "$base" >/dev/null
fi
inside() { "$docker" run --rm --network none --entrypoint sh "$base" -c "$1"; }
command=$(sed -n 's/^CMD \["\([^"]*\)".*/\1/p' "$dockerfile")
if inside "command -v $command || command -v /opt/tritonserver/bin/$command || command -v /app/$command" >/dev/null; then
  context=$(mktemp -d "$cache/context-XXXXXX")
  trap 'rm -rf "$context"' EXIT
else
  version='import sys; print("%d.%d" % sys.version_info[:2])'
  outside=$("$python" -c "$version") found=$(inside "python3 -c '$version'" || true)
  [ "$found" = "$outside" ] || { echo "$base has Python ${found:-none}, and $python is $outside: point PYTHON at one of the same" >&2; exit 1; }
  context=$cache/wheelhouse-$name-$(cat "$recipe".{lock,in} "$0" <(echo "$outside") | sha256sum | cut -c1-16)
  exec 9>"$context.lock"
  flock 9
  if [ ! -e "$context" ]; then
    rm -rf "$context.new"
    mkdir -p "$context.new"
    download=("$python" -m pip download --disable-pip-version-check --progress-bar off --only-binary :all: --dest "$context.new/wheelhouse")
    "${download[@]}" --no-deps --require-hashes -r "$recipe.lock"
    # Its exact version, without a hash: its file differs between processors and graphics cards, and so does what it needs beyond the lock.
    if torch=$(grep '^torch==' "$recipe.in"); then
      sed -n 's/^\([A-Za-z0-9._-]*==[^ ;]*\).*/\1/p' "$recipe.lock" > "$context.new/constraints"
      "${download[@]}" --find-links "$context.new/wheelhouse" -c "$context.new/constraints" "$torch"
    fi
    mv "$context.new" "$context"
  fi
  cp "$recipe".{sh,lock,in} "$context"
  # What the script installs besides the packages.
  for program in "$recipe"_*.py; do if [ -e "$program" ]; then cp "$program" "$context"; fi; done
fi
DOCKER_BUILDKIT=1 "$docker" build --network none --build-arg BASE="$base" --tag "$tag" --file "$dockerfile" "$context"
