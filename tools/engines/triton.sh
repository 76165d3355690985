#!/usr/bin/env bash
# Makes a Triton Inference Server for machines without NVIDIA's image: tools/engines/triton.sh DIR [LOCK PINS], then DIR/bin/tritonserver …
# The server comes out of NVIDIA's PyTriton wheel, which carries the Python backend alone; onnxruntime beside it runs ONNX models.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
directory=$(realpath -m "${1:?usage: triton.sh DIR [LOCK PINS]}") lock=${2:-$here/triton.lock}
"${PYTHON:-python3}" -m venv "$directory"
python=$directory/bin/python
# --isolated would drop the machine's own index settings.
"$python" -m pip install --disable-pip-version-check --progress-bar off --no-deps --require-hashes -r "$lock"
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
libpython=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
server=$site/pytriton/tritonserver
# The backend starts a stub process per model instance; the wheel carries one for each Python that it supports.
cp "$server/python_backend_stubs/$version/triton_python_backend_stub" "$server/backends/python/"
ln -sfn "$server/backends" "$directory/backends"
cat > "$directory/bin/tritonserver" <<SCRIPT
#!/usr/bin/env bash
export LD_LIBRARY_PATH=$site/nvidia_pytriton.libs:$libpython\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
export PATH=$directory/bin:\$PATH   # the stub finds its interpreter, with this environment's packages, by PATH
exec $server/bin/tritonserver --backend-directory=$server/backends "\$@"
SCRIPT
chmod +x "$directory/bin/tritonserver"
echo "Checking the environment"
usage=$("$directory/bin/tritonserver" --help 2>&1 || true)   # it says how it is used and ends with 1
[[ $usage == *--model-repository* ]]
"$python" -c 'import numpy, onnxruntime, PIL'
