"""The port of an inference engine: from what should run on a node to how it is started, probed and judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from mesh.errors import DomainError, Kind


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a deployment asks of its engine; zero and empty leave it to the engine and the model.

    `context_tokens` is in tokens of prompt and answer, `max_concurrency` the requests answered at once, `max_adapters`
    the LoRA adapters that may be loaded at once. `extra` are options of the engine's own, by name without dashes.
    """

    context_tokens: int = 0
    max_concurrency: int = 0
    tool_parser: str = ""
    max_adapters: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Program:
    """A server of the deployment's own that speaks HTTP. An empty `command` is the image's; empty paths are usual."""

    command: tuple[str, ...] = ()
    health_path: str = ""
    inference_path: str = ""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One replica of a model on this node, as an engine needs to know it.

    `run_dir` is this replica's own writable directory; `model_dir` is shared, verified and never written to.
    `gpu_devices` are NVML indexes or UUIDs, empty on a CPU node. `memory_mb` is what the placement claimed
    (device memory with a GPU, otherwise RAM; 0 = not said) of `device_memory_mb`. `options` and `environment` are what
    the deployment asks for on top of the node's own. `more_ports` are those that the engine names besides `port`, which
    speaks HTTP. `program` is what runs where the engine is the deployment's own.
    """

    served_name: str
    model_dir: Path
    run_dir: Path
    host: str
    port: int
    gpu_devices: tuple[str, ...] = ()
    memory_mb: int = 0
    device_memory_mb: int = 0
    options: EngineOptions = field(default_factory=EngineOptions)
    environment: Mapping[str, str] = field(default_factory=dict)
    more_ports: Mapping[str, int] = field(default_factory=dict)
    program: Program = field(default_factory=Program)


@dataclass(frozen=True, slots=True)
class Probe:
    """An HTTP request that succeeds when it is answered with status 200. A body is JSON."""

    method: str
    url: str
    body: bytes = b""
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class UnsupportedField:
    """A request field that the engine accepts and then silently ignores, so that the edge must refuse it.

    `path` is dotted and leads through JSON objects. Null and the `harmless_values` (each the JSON text of a scalar:
    `1`, `false`, `"text"`; numbers compare as numbers) are let through, for they ask for what the engine does anyway.
    """

    path: str
    harmless_values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """All that a process runtime needs; `node_agent.engines.prepare` lays out `directories`, `links` and `files` first.

    `env` is the whole environment of the process. The engine is up when `health` answers and ready when `ready` (a real
    inference of one token) does too. `inference_path` is what `/v1/inference` of the instance means. `private_paths`
    change the engine itself and must never be reachable through the gateway. `grpc_port` is where the engine speaks the
    Open Inference Protocol over gRPC, 0 where it does not. `single_use_connections` says that the engine closes
    connections after streams though it says that it keeps them. Without `argv` a container runs its image's command.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    health: Probe
    ready: Probe
    ready_timeout_s: float
    inference_path: str
    unsupported_fields: tuple[UnsupportedField, ...]
    private_paths: tuple[str, ...] = ()
    directories: tuple[Path, ...] = ()
    links: Mapping[Path, Path] = field(default_factory=dict)
    files: Mapping[Path, str] = field(default_factory=dict)
    grpc_port: int = 0
    single_use_connections: bool = False


class FailureReason(StrEnum):
    """Why an engine ended; each is an `aiops.errors.v1.Reason`."""

    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    PORT_IN_USE = "PORT_IN_USE"
    NOT_A_MODEL = "NOT_A_MODEL"
    DISK_FULL = "DISK_FULL"
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    ENGINE_FAILED = "ENGINE_FAILED"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What happened, as a sentence for the operator, and what to do next."""

    reason: FailureReason
    message: str
    suggestion: str


class EngineUnavailableError(DomainError):
    """This node has no engine for such a model."""

    kind, reason = Kind.PRECONDITION, "ENGINE_UNAVAILABLE"


class ServedNameError(DomainError):
    """The model's name cannot be served: it would leave the run directory or mean something else to the engine."""

    kind, reason = Kind.INVALID, "INVALID_REQUEST"


class EngineOptionError(DomainError):
    """The deployment asks for an option that this engine does not have, or that nobody may choose."""

    kind, reason = Kind.INVALID, "ENGINE_OPTION_INVALID"


class NotServableError(DomainError):
    """The model's files are not what the engine serves; the message says what is wrong with them."""

    kind, reason = Kind.INVALID, "NOT_A_MODEL"


class Engine(Protocol):
    """An engine adapter: functions of the specification, without a process of their own."""

    @property
    def name(self) -> str:
        """What inventories and deployments call it, e.g. `transformers`."""
        ...

    @property
    def more_ports(self) -> tuple[str, ...]:
        """Names of the ports that it listens on besides its HTTP port."""
        ...

    def plan(self, spec: EngineSpec) -> LaunchPlan:
        """Says how to run the replica; reads the model's directory, writes nothing.

        Raises ServedNameError, EngineOptionError and NotServableError.
        """
        ...

    def diagnose(self, returncode: int | None, log_tail: str) -> Diagnosis:
        """Judges an engine that ended (`returncode` as subprocess gives it) or never became ready (None)."""
        ...
