"""What a node is told to run, and what it reports: the words between deployments and the nodes' sessions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from controller.models.model import ModelId
from controller.nodes.model import Container, NodeId


class Goal(Enum):
    """What should become of a workload."""

    RUN = "run"
    END = "end"


class WorkloadState(Enum):
    """What a node is doing for a workload."""

    DOWNLOADING = "downloading"
    EXTRACTING = "extracting"
    STARTING = "starting"
    RUNNING = "running"
    FAILED = "failed"
    STOPPED = "stopped"


class HealthStatus(Enum):
    """Whether a running engine answers."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file of a model. `path` is relative, with forward slashes; `sha256` in hex; `object_path` below the URL.

    `chunk_sha256s` are 32 bytes for each chunk of `chunk_bytes`; without chunks it is fetched as one.
    """

    path: str
    size_bytes: int
    sha256: str
    chunk_bytes: int = 0
    chunk_sha256s: bytes = b""
    object_path: str = ""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a deployment asks of its engine; zero and empty leave it to the engine and the model.

    `max_adapters` are the LoRA adapters that may be loaded at once, `extra` options of the engine's own.
    """

    tool_parser: str = ""
    max_adapters: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that a deployment is to have: a model of the registry, called by its own name.

    `digest` pins a revision of it; the current one without.
    """

    model_id: ModelId
    name: str
    digest: str = ""

    @staticmethod
    def read(row: Mapping[str, str]) -> "Adapter":
        """The adapter that a JSON object says; one of before revisions were pinned has no digest."""
        return Adapter(ModelId(row["model_id"]), row["name"], row.get("digest", ""))


@dataclass(frozen=True, slots=True)
class DesiredAdapter:
    """A LoRA adapter that an engine is to have, under the name that clients call it by."""

    name: str
    artifact_url: str
    files: tuple[ArtifactFile, ...]


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """Whether an engine has an adapter; `error` says why not, when it was tried."""

    name: str
    loaded: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """What a model brings as its own engine. An empty `command` is its image's, empty paths are the usual ones."""

    command: tuple[str, ...] = ()
    health: str = ""
    inference: str = ""

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> "Program":
        """The program whose fields these are; JSON knows no tuples."""
        return cls(**{**fields, "command": tuple(fields.get("command", ()))})


@dataclass(frozen=True, slots=True)
class DesiredWorkload:
    """One workload that a node is to run or to end, as of the node's `revision`.

    `port` 0 lets the node choose; `gpu_devices` are NVML indexes, empty on a CPU node; `memory_limit_mb` is what the
    placement claimed, of RAM or of each device. `context_tokens` and `max_concurrency` 0 leave it to the engine.
    `artifact_url` and `files` are empty when the goal is to end.
    """

    workload_id: str
    epoch: int
    goal: Goal
    revision: int
    container_name: str
    model_id: str
    served_name: str
    framework: str
    task: str
    job_id: str
    request_id: str
    replica: int = 0
    artifact_url: str = ""
    files: tuple[ArtifactFile, ...] = ()
    port: int = 0
    gpu_devices: tuple[str, ...] = ()
    memory_limit_mb: int = 0
    image: str = ""
    drain_seconds: int = 0
    context_tokens: int = 0
    max_concurrency: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    program: Program = field(default_factory=Program)
    options: EngineOptions = field(default_factory=EngineOptions)
    adapters: tuple[DesiredAdapter, ...] = ()


@dataclass(frozen=True, slots=True)
class DesiredChange:
    """The desired state of one node: all of it (`snapshot`), or what changed since `base_revision`.

    A snapshot still names workloads that are to end and whose end the node has not told yet; whatever else it does not
    name is to end as well.
    """

    revision: int
    snapshot: bool
    base_revision: int
    workloads: tuple[DesiredWorkload, ...]


@dataclass(frozen=True, slots=True)
class UnsupportedField:
    """A request field that an engine would silently ignore; null and `harmless_values` (JSON texts) change nothing."""

    path: str
    harmless_values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkloadReport:
    """What a node says of one workload.

    `session_epoch` is the session that it was told in; 0 skips the check against newer sessions. `event` is one of
    started, stopped, died and oom, or empty. `inference_path` is empty while the engine's is not known.
    """

    node_id: NodeId
    workload_id: str
    epoch: int
    state: WorkloadState
    session_epoch: int = 0
    replica: int = 0
    progress: int = 0
    container_id: str = ""
    runtime: str = ""
    engine: str = ""
    port: int = 0
    error: str = ""
    error_reason: str = ""
    log_tail: str = ""
    health: HealthStatus = HealthStatus.UNKNOWN
    inference_path: str = ""
    unsupported_fields: tuple[UnsupportedField, ...] = ()
    private_paths: tuple[str, ...] = ()
    grpc_port: int = 0
    single_use_connections: bool = False
    container: Container | None = None
    event: str = ""
    exit_code: int | None = None
    # Seconds until an engine that failed is started again; 0 when it does not wait for that.
    next_attempt_s: float = 0.0
    # For people: more of what is under way.
    detail: str = ""
    revision: int = 0
    adapters: tuple[AdapterReport, ...] = ()
