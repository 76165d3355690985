"""Lays a model out as Triton wants it: one directory with `config.pbtxt` and version `1`.

Format: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from mesh.onnx.graph import ANY, OnnxError, Tensor, read_graph
from mesh.onnx.serving import MODEL, OPTIONS, SERVING, Serving, ServingError, serving_of
from node_agent.engines import launch
from node_agent.engines.engine import EngineOptionError, EngineSpec, NotServableError

CONFIG = "config.pbtxt"
_CARRIED = ("model.py", "model_inputs.py", "model_outputs.py")
_NAME = re.compile(r"^\s*name\s*:\s*\"[^\"]*\"\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Repository:
    """What the run directory gets. `serving` is None where the model brings its own configuration."""

    links: Mapping[Path, Path] = field(default_factory=dict)
    files: Mapping[Path, str] = field(default_factory=dict)
    serving: Serving | None = None

    @property
    def directories(self) -> tuple[Path, ...]:
        """What has to be there for them, outer ones first."""
        return tuple(sorted({path.parent for path in (*self.links, *self.files)}))


def repository(spec: EngineSpec, folder: Path, threads: int, *, onnx_backend: bool) -> Repository:
    """The repository at `folder` that serves the model under its name.

    A directory with a `config.pbtxt` is one already and is linked as it is; otherwise it holds a `model.onnx`. Raises
    NotServableError and EngineOptionError.
    """
    launch.require_known(spec, "triton", "extra")
    launch.extra_options(spec, "triton", OPTIONS)
    model = folder / spec.served_name
    if (spec.model_dir / CONFIG).is_file():
        return _linked(spec, model)
    serving = _serving(spec.model_dir, spec.options.extra)
    if onnx_backend and not serving.steps:
        config = _config(spec, serving, 'platform: "onnxruntime_onnx"')
        return Repository({model / "1": spec.model_dir}, {model / CONFIG: config}, serving)
    parameters = {
        "model": str(spec.model_dir / MODEL),
        "steps": json.dumps(serving.steps or {}),
        "threads": str(threads),
    }
    code = resources.files("node_agent.engines.triton_model")
    carried = {model / "1" / name: (code / name).read_text(encoding="utf-8") for name in _CARRIED}
    config = _config(spec, serving, 'backend: "python"', *_parameters(parameters))
    return Repository({}, {**carried, model / CONFIG: config}, serving)


def _linked(spec: EngineSpec, model: Path) -> Repository:
    if spec.options.extra:
        raise EngineOptionError(f"a model with a {CONFIG} of its own says itself how it is served", option=CONFIG)
    text = (spec.model_dir / CONFIG).read_text(encoding="utf-8", errors="replace")
    config = f"name: {_quoted(spec.served_name)}\n{_NAME.sub('', text)}"
    links = {model / each.name: each for each in sorted(spec.model_dir.iterdir()) if each.name != CONFIG}
    return Repository(links, {model / CONFIG: config})


def _serving(model_dir: Path, chosen: Mapping[str, str]) -> Serving:
    file = model_dir / MODEL
    if not file.is_file():
        raise NotServableError(f"Triton serves a {MODEL} or a model repository with a {CONFIG}; the model has neither")
    document = model_dir / SERVING
    try:
        return serving_of(read_graph(file), document.read_bytes() if document.is_file() else b"", chosen)
    except OnnxError as error:
        raise NotServableError(f"{MODEL} cannot be served: {error}") from error
    except ServingError as error:
        raise NotServableError(str(error)) from error


def _config(spec: EngineSpec, serving: Serving, *backend: str) -> str:
    batching = serving.batching
    lines = [f"name: {_quoted(spec.served_name)}", *backend, f"max_batch_size: {batching.max_batch_size}"]
    lines += [_tensor("input", tensor) for tensor in serving.inputs]
    lines += [_tensor("output", tensor) for tensor in serving.outputs]
    if batching.max_batch_size:
        preferred = "".join(f" preferred_batch_size: {size}" for size in batching.preferred_batch_sizes)
        delay = f"max_queue_delay_microseconds: {batching.max_queue_delay_us}"
        lines.append(f"dynamic_batching {{ {delay}{preferred} }}")
    kind = "KIND_GPU" if spec.gpu_devices else "KIND_CPU"
    lines.append(f"instance_group {{ count: {serving.instances} kind: {kind} }}")
    return "\n".join(lines) + "\n"


def _parameters(parameters: Mapping[str, str]) -> Iterator[str]:
    for key, value in parameters.items():
        yield f"parameters {{ key: {_quoted(key)} value: {{ string_value: {_quoted(value)} }} }}"


def _tensor(kind: str, tensor: Tensor) -> str:
    datatype = "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"
    # Triton takes no empty shape: a number alone is a tensor of one.
    dims = tensor.shape or (1,)
    reshape = "" if tensor.shape else " reshape: { shape: [ ] }"
    sizes = ", ".join(str(size if size != ANY else -1) for size in dims)
    return f"{kind} {{ name: {_quoted(tensor.name)} data_type: {datatype} dims: [ {sizes} ]{reshape} }}"


def _quoted(text: str) -> str:
    """A string of protobuf's text format, which escapes as C does."""
    escaped = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(escaped)}"'
