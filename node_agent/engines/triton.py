"""`tritonserver`: ONNX models for pictures, sound and numbers, batched, over the Open Inference Protocol."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from mesh.onnx.graph import ANY, Tensor
from mesh.onnx.serving import Serving
from node_agent.engines import launch
from node_agent.engines.diagnosis import diagnose, sign
from node_agent.engines.engine import Diagnosis, EngineSpec, FailureReason, LaunchPlan, Probe, ServedNameError
from node_agent.engines.triton_repository import repository

GRPC, METRICS = "grpc", "metrics"
_START_S = 120.0
_EXIT_S = 8
# Triton's name of a model is one directory and one segment of a path.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MOST_ZEROS = 1_000_000
# What changes the server instead of asking it.
_PRIVATE = ("/v2/repository", "/v2/systemsharedmemory", "/v2/cudasharedmemory", "/v2/trace", "/v2/logging")
# A picture and a recording that are plain ASCII, so that JSON carries them.
_PICTURE = "P3 1 1 255 0 0 0\n"
_SILENCE = "RIFF4\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0data" + "\x10\0\0\0" + "\x7f" * 16


# What Triton, its Python backend and ONNX Runtime print, most telling first.
_SIGNS = (
    sign(
        r"Socket '\S+' already in use",
        FailureReason.PORT_IN_USE,
        "one of the engine's ports is already in use on the node",
        "Deploy without a port, so that the node chooses free ones, or name another port.",
    ),
    sign(
        r"BFCArena::AllocateRaw|Failed to allocate memory|CUDA failure 2",
        FailureReason.OUT_OF_MEMORY,
        "the node has not enough free memory for this model",
        "Choose a node with more free memory, lower max_batch_size in serving.json, or stop another model.",
    ),
    sign(
        r"shared memory (region|key)|shm[-_ ](open|region)|boost::interprocess|Bus error",
        FailureReason.ENGINE_FAILED,
        "the engine's Python backend has not enough shared memory",
        "Give the container or the machine a larger /dev/shm.",
    ),
    sign(
        r"No module named '(onnxruntime|numpy|PIL)'|unable to find backend library for backend",
        FailureReason.ENGINE_UNAVAILABLE,
        "the engine is not fully installed on the node: it lacks a backend, onnxruntime, numpy or pillow",
        "Install the engine's environment again and restart the node agent.",
    ),
    sign(
        r"InvalidProtobuf|InvalidGraph|INVALID_GRAPH|INVALID_PROTOBUF|NOT_IMPLEMENTED|Protobuf parsing failed"
        r"|ShapeInferenceError|is not a registered function/op|ONNXRuntimeError",
        FailureReason.NOT_A_MODEL,
        "the runtime cannot load the model's graph",
        "Export the model again, with an opset that this version of ONNX Runtime knows.",
    ),
    sign(
        r"unable to load model|failed to load all models|error: creating server|Can't parse config\.pbtxt",
        FailureReason.NOT_A_MODEL,
        "Triton cannot load the model",
        "Read the deployment's log: the line of the model names what is wrong.",
    ),
)


@dataclass(frozen=True, slots=True)
class Triton:
    """Serves with the `tritonserver` command at `executable`; `cpu_count` cores run one request's graph."""

    executable: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    cpu_count: int = field(default_factory=lambda: os.cpu_count() or 1)
    name: str = "triton"
    more_ports: tuple[str, ...] = (GRPC, METRICS)

    def plan(self, spec: EngineSpec) -> LaunchPlan:
        """Serves a repository of one model. Its configuration is strict: other names, types and shapes are refused."""
        if not _NAME.fullmatch(spec.served_name):
            raise ServedNameError(
                f"Triton cannot serve a model as {spec.served_name!r}: use letters, digits, '.', '_' and '-' alone"
            )
        models = spec.run_dir / "models"
        laid_out = repository(spec, models, self.cpu_count, onnx_backend=self._has_backend("onnxruntime"))
        base = f"/v2/models/{spec.served_name}"
        return LaunchPlan(
            argv=(str(self.executable), *_options(spec, models)),
            env=launch.inherited(self.environment)
            | {"HOME": str(spec.run_dir), "TMPDIR": str(spec.run_dir / "tmp"), "PYTHONUNBUFFERED": "1"}
            | launch.visible_devices(spec)
            | dict(spec.environment),
            cwd=spec.run_dir,
            health=Probe("GET", f"{launch.origin(spec)}/v2/health/ready", timeout_s=2.0),
            ready=_probe(spec, base, laid_out.serving),
            ready_timeout_s=launch.ready_timeout_s(spec, _START_S),
            inference_path=f"{base}/infer",
            unsupported_fields=(),
            private_paths=(*_PRIVATE, f"{base}/trace"),
            directories=(spec.run_dir / "tmp", *laid_out.directories),
            links=laid_out.links,
            files=laid_out.files,
            grpc_port=spec.more_ports.get(GRPC, 0),
        )

    def diagnose(self, returncode: int | None, log_tail: str) -> Diagnosis:
        for known in _SIGNS:
            if known.pattern.search(log_tail):
                return Diagnosis(known.reason, f"{known.message}{_detail(log_tail)}", known.suggestion)
        return diagnose(returncode, log_tail)

    def _has_backend(self, name: str) -> bool:
        """Whether the server's own directory has the backend; in NVIDIA's image it has."""
        if not self.executable.is_absolute():
            return True
        root = self.executable.resolve().parent
        return any((folder / "backends" / name).is_dir() for folder in (root, root.parent))


def _options(spec: EngineSpec, models: Path) -> tuple[str, ...]:
    return (
        f"--model-repository={models}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        f"--exit-timeout-secs={_EXIT_S}",
        # Its tables would push what went wrong out of the end of the log.
        "--log-info=false",
        *(f"--http-address={spec.host}", f"--http-port={spec.port}"),
        *(f"--grpc-address={spec.host}", f"--grpc-port={spec.more_ports.get(GRPC, 0)}"),
        *(f"--metrics-address={spec.host}", f"--metrics-port={spec.more_ports.get(METRICS, 0)}"),
        f"--allow-gpu-metrics={'true' if spec.gpu_devices else 'false'}",
    )


def _probe(spec: EngineSpec, base: str, serving: Serving | None) -> Probe:
    """A real inference where a request can be made up, else what the server says of the model."""
    tensors = [_example(tensor, serving) for tensor in serving.inputs] if serving else []
    if not tensors or None in tensors:
        return Probe("GET", f"{launch.origin(spec)}{base}/ready", timeout_s=5.0)
    body = json.dumps({"inputs": tensors}).encode()
    return Probe("POST", f"{launch.origin(spec)}{base}/infer", body, timeout_s=60.0)


def _example(tensor: Tensor, serving: Serving) -> dict[str, object] | None:
    shape = [1, *tensor.shape] if serving.batching.max_batch_size else list(tensor.shape or (1,))
    if ANY in shape or prod(shape) > _MOST_ZEROS or tensor.datatype in ("FP16", "BF16"):
        return None
    zero: object = False if tensor.datatype == "BOOL" else "" if tensor.datatype == "BYTES" else 0
    if serving.steps:
        zero = {"image": _PICTURE, "audio": _SILENCE}.get(tensor.name, zero)
    return {"name": tensor.name, "shape": shape, "datatype": tensor.datatype, "data": [zero] * prod(shape)}


def _detail(log_tail: str) -> str:
    """What the server says of the model in its own words, as the end of a sentence."""
    lines = [line.strip() for line in log_tail.splitlines()]
    told = [line for line in lines if re.search(r"failed to load|Internal: |Invalid argument: |already in use", line)]
    return f": {told[-1][:300]}" if told else ""
