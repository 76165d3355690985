#!/usr/bin/env bash
# Makes the development environment: tools/environment.sh DIR. Needs Python 3.11 or newer; gets uv from the package index.
set -euo pipefail
venv=${1:?usage: tools/environment.sh DIR}
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "aiops needs Python 3.11 or newer; $("$python" --version) is $(command -v "$python"). Set PYTHON to another one." >&2
  exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# An environment that another tool made may lack pip.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null
[ -x "$venv/bin/uv" ] || "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv>=0.13"
# uv itself is not in the lock, so install rather than sync.
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --require-hashes -r requirements-dev.lock
# xds-protos carries old copies of OpenTelemetry's messages under the same paths; the true ones are written last.
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --require-hashes --reinstall-package opentelemetry-proto \
  -r requirements-dev.lock
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps -e .
