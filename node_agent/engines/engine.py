"""The port of an inference engine: from what should run on a node to how it is started, probed and judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One replica of a model on this node, as an engine needs to know it.

    `run_dir` is this replica's own writable directory; `model_dir` is shared, verified and never written to.
    `gpu_devices` are NVML indexes or UUIDs, empty on a CPU node. `memory_mb` is what the placement claimed
    (device memory with a GPU, otherwise RAM; 0 = not said) of `device_memory_mb`. `context` 0 means the model's own.
    """

    served_name: str
    model_dir: Path
    run_dir: Path
    host: str
    port: int
    gpu_devices: tuple[str, ...] = ()
    memory_mb: int = 0
    device_memory_mb: int = 0
    context: int = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """An HTTP request that succeeds when it is answered with status 200."""

    method: str
    url: str
    body: bytes = b""
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class IgnoredField:
    """A request field that the engine accepts and then silently ignores.

    A request that carries it is refused at the edge, unless the value is null or one of `harmless` (each the JSON text
    of a scalar: `1`, `false`, `"text"`), which ask for what the engine does anyway. `path` leads through objects.
    """

    path: tuple[str, ...]
    harmless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """An HTTP path that the engine answers, with the request fields that it would ignore there."""

    path: str
    ignored: tuple[IgnoredField, ...] = ()


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """All that a process runtime needs; `node_agent.engines.prepare.prepare` makes `directories` and `links` first.

    `env` is the whole environment of the process. The engine is started when `health` answers and ready when `ready`
    (a real inference of one token) does too. `inference_path` is what `/v1/inference` of the instance means.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    health: Probe
    ready: Probe
    ready_timeout_s: float
    inference_path: str
    routes: tuple[Route, ...]
    directories: tuple[Path, ...] = ()
    links: Mapping[Path, Path] = field(default_factory=dict)


class FailureKind(StrEnum):
    OUT_OF_MEMORY = "out_of_memory"
    PORT_IN_USE = "port_in_use"
    BAD_MODEL = "bad_model"
    NO_SPACE = "no_space"
    NOT_INSTALLED = "not_installed"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why an engine ended: a sentence for the operator and what to do next."""

    kind: FailureKind
    message: str
    suggestion: str


class Engine(Protocol):
    """An engine adapter: pure functions over the specification."""

    @property
    def name(self) -> str: ...

    def plan(self, spec: EngineSpec) -> LaunchPlan: ...

    def diagnose(self, returncode: int | None, log_tail: str) -> Diagnosis:
        """Judges an engine that ended (`returncode` as subprocess gives it) or never became ready (None)."""
        ...
