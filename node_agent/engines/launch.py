"""What every engine's launch has in common: the served name, a clean environment, device visibility, probes."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path

from node_agent.engines.engine import EngineOptionError, EngineSpec, Probe, ServedNameError

CHAT_PATH = "/v1/chat/completions"

# Engines read `@` as a revision and `:` as a file; a leading dot or a `..` part would leave the run directory.
_SERVED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_SECONDS_PER_MB_OF_WEIGHTS = 1 / 50
_WEIGHTS = (".safetensors", ".gguf", ".onnx", ".onnx_data")
# Only these of the node agent's own variables reach an engine; secrets and service settings do not.
_INHERITED = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "NVIDIA_DRIVER_CAPABILITIES",
    "CUDA_MPS_PIPE_DIRECTORY",
)


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of the node agent's environment that an engine may see."""
    return {name: environment[name] for name in _INHERITED if name in environment}


def require_servable(name: str) -> None:
    """Raises ServedNameError unless every engine can serve under this name."""
    if not _SERVED_NAME.fullmatch(name):
        raise ServedNameError(
            f"a model cannot be served as {name!r}: use letters, digits, '.', '_' and '-', "
            "with at most one '/' between two names"
        )


def extra_options(spec: EngineSpec, engine: str, allowed: Collection[str]) -> tuple[str, ...]:
    """The deployment's further options as arguments: `--name=value`, or `--name` alone for an empty value.

    Raises EngineOptionError for a name that is not allowed.
    """
    for name in spec.options.extra:
        if name not in allowed:
            known = f"; there are {', '.join(sorted(allowed))}" if allowed else ""
            raise EngineOptionError(f"a deployment cannot choose the option {name!r} of {engine}{known}", option=name)
    # One word, so that no value is taken for an option.
    return tuple(f"--{name}={value}" if value else f"--{name}" for name, value in sorted(spec.options.extra.items()))


def require_known(spec: EngineSpec, engine: str, *known: str) -> None:
    """Raises EngineOptionError when the deployment chose an option of its own that this engine does not have."""
    names = (each.name for each in fields(spec.options) if each.name not in known and getattr(spec.options, each.name))
    for name in names:
        raise EngineOptionError(
            f"{engine} has no option {name}; deploy without it, or on a node with vLLM", option=name, engine=engine
        )


def offline_home(spec: EngineSpec) -> dict[str, str]:
    """Keeps every cache and report of the Hugging Face libraries inside the run directory and off the network."""
    return {
        "HOME": str(spec.run_dir),
        "HF_HOME": str(spec.run_dir / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
    }


def hub_directory(spec: EngineSpec) -> Path:
    """Has to exist before the start: without it a list of models is an internal error."""
    return spec.run_dir / "hf" / "hub"


def visible_devices(spec: EngineSpec) -> dict[str, str]:
    """Shows an engine its own cards only, numbered as NVML numbers them; none at all on a CPU node."""
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(spec.gpu_devices)}


def health_probe(spec: EngineSpec) -> Probe:
    return Probe("GET", f"{origin(spec)}/health", timeout_s=2.0)


def one_token_probe(spec: EngineSpec) -> Probe:
    """A real answer of one token: the weights are loaded, the tokenizer and the chat template work."""
    body = {"model": spec.served_name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    return Probe("POST", f"{origin(spec)}{CHAT_PATH}", json.dumps(body).encode(), timeout_s=60.0)


def ready_timeout_s(spec: EngineSpec, start_s: float) -> float:
    """Seconds that a start may take: the engine's own, and reading the weights from a slow disk."""
    weights = sum(file.stat().st_size for suffix in _WEIGHTS for file in spec.model_dir.glob(f"*{suffix}"))
    return start_s + weights / 1_000_000 * _SECONDS_PER_MB_OF_WEIGHTS


def origin(spec: EngineSpec) -> str:
    """Where the engine answers HTTP."""
    host = f"[{spec.host}]" if ":" in spec.host else spec.host
    return f"http://{host}:{spec.port}"
