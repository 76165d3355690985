"""Workloads: what the controller wants of this machine, and what became of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NewType

from mesh.errors import DomainError, Kind
from mesh.loops import Backoff
from node_agent.cache.model import NO_ARTIFACT, Artifact
from node_agent.engines.engine import EngineOptions, Program, UnsupportedField
from node_agent.engines.live import EngineLoad
from node_agent.runtime.model import Instance

WorkloadId = NewType("WorkloadId", str)


class ModelMissingError(DomainError):
    """What should run has no files."""

    kind, reason = Kind.NOT_FOUND, "MODEL_NOT_FOUND"


class NeverReadyError(DomainError):
    """The engine started and did not answer in time."""

    kind, reason = Kind.DEADLINE, "ENGINE_FAILED"


class StaleEpochError(DomainError):
    """A newer epoch of the replica is known here already."""

    kind, reason = Kind.PRECONDITION, "CONFLICT"


class DesiredStateGapError(DomainError):
    """A change came whose predecessor did not; the whole desired state is needed."""

    kind, reason = Kind.PRECONDITION, "CONFLICT"


@dataclass(frozen=True, slots=True, order=True)
class WorkloadKey:
    """One replica of a workload."""

    workload_id: WorkloadId
    replica: int

    def __str__(self) -> str:
        return f"{self.workload_id}/{self.replica}"


class Goal(StrEnum):
    RUN = "run"
    END = "end"


class State(StrEnum):
    DOWNLOADING = "downloading"
    EXTRACTING = "extracting"
    STARTING = "starting"
    RUNNING = "running"
    FAILED = "failed"
    STOPPED = "stopped"


class Health(StrEnum):
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


class Event(StrEnum):
    """What happened to the process, when a status tells of it."""

    NONE = ""
    STARTED = "started"
    STOPPED = "stopped"
    DIED = "died"
    OOM = "oom"


@dataclass(frozen=True, slots=True)
class WorkloadAdapter:
    """A LoRA adapter that an engine is to have, under the name that clients call it by."""

    name: str
    artifact: Artifact


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """Whether the engine has an adapter; `error` says why not, when it was tried."""

    name: str
    loaded: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """What should run, or end. The epoch grows each time the controller places the replica anew."""

    key: WorkloadKey
    epoch: int
    goal: Goal
    container_name: str = ""
    model_id: str = ""
    served_name: str = ""
    framework: str = ""
    task: str = ""
    artifact: Artifact = NO_ARTIFACT
    port: int = 0
    gpu_devices: tuple[str, ...] = ()
    memory_limit_mb: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    job_id: str = ""
    request_id: str = ""
    drain: timedelta = timedelta()
    options: EngineOptions = field(default_factory=EngineOptions)
    adapters: tuple[WorkloadAdapter, ...] = ()
    program: Program = field(default_factory=Program)

    @property
    def runtime(self) -> str:
        """What runs it: an image asks for a container."""
        return "docker" if self.image else "process"


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """How an engine's inference is reached, which request fields it would ignore there, and what is not for clients."""

    inference_path: str = ""
    unsupported_fields: tuple[UnsupportedField, ...] = ()
    private_paths: tuple[str, ...] = ()
    grpc_port: int = 0
    single_use_connections: bool = False


@dataclass(frozen=True, slots=True)
class Readiness:
    """How to find out whether the engine is up (`health_url`) and ready (`answer_url` answers `answer_body`)."""

    health_url: str
    answer_url: str
    answer_body: str = ""
    answer_timeout_s: float = 5.0
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Process:
    """The process of a workload. `ready` once it has answered; `log_start` is where its part of the log begins.

    `facts` are unknown for a process that was found again without its record.
    """

    instance: Instance
    epoch: int
    engine: str
    port: int
    started_at: datetime
    readiness: Readiness
    facts: EngineFacts | None = None
    ready: bool = False
    log_start: int = 0
    more_ports: tuple[int, ...] = ()

    @property
    def ports(self) -> tuple[int, ...]:
        """All that it listens on, HTTP first."""
        return (self.port, *self.more_ports)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a workload is not going to run until the controller wants it anew."""

    epoch: int
    error: str
    reason: str = ""
    log_tail: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take and how often they are tried."""

    restart_limit: int = 5
    restart_pause: Backoff = field(default_factory=lambda: Backoff(timedelta(seconds=2), timedelta(seconds=60)))
    stable_after: timedelta = timedelta(minutes=1)
    start_limit: timedelta = timedelta(hours=1)
    stop_grace: timedelta = timedelta(seconds=10)
    ready_interval: timedelta = timedelta(milliseconds=250)
    health_interval: timedelta = timedelta(seconds=5)
    unhealthy_after: int = 3
    log_interval: timedelta = timedelta(seconds=1)
    load_interval: timedelta = timedelta(seconds=5)
    log_keep_bytes: int = 8 * 1024 * 1024
    tidy_interval: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Record:
    """All that is remembered of one workload over the agent's death; `failures` are those in a row.

    `adapters` are those that its process was found to have, or not to take.
    """

    spec: WorkloadSpec
    process: Process | None = None
    failure: Failure | None = None
    restarts: int = 0
    failures: int = 0
    adapters: tuple[AdapterStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class Container:
    """A workload as it runs now."""

    record: Record
    state: State
    runtime: str
    memory_mb: int = 0
    cpu_percent: float = 0.0
    load: EngineLoad | None = None


@dataclass(frozen=True, slots=True)
class WorkloadStatus:
    """What the controller is told of one workload. `process` is the one told of, also when it has just ended."""

    key: WorkloadKey
    epoch: int
    state: State
    progress: int = 0
    process: Process | None = None
    container: Container | None = None
    health: Health = Health.UNKNOWN
    event: Event = Event.NONE
    failure: Failure | None = None
    exit_code: int = 0
    next_attempt: timedelta = timedelta()
    revision: int = 0
    adapters: tuple[AdapterStatus, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What this machine should run: all of it, or what changed since `base_revision`."""

    revision: int
    workloads: tuple[WorkloadSpec, ...]
    snapshot: bool = True
    base_revision: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What the controller decides of a workload that runs here, when a session opens."""

    key: WorkloadKey
    epoch: int
    adopt: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Whether a wish was taken on; `refusal` says why not."""

    request_id: str
    refusal: str = ""


Report = Callable[[WorkloadStatus], None]
