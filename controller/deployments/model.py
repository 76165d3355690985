"""A deployment: one instance of a model on one node, from its placement to its end."""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import NewType

from controller.deployments.wish import Wish
from controller.deployments.workload import (
    Adapter,
    AdapterReport,
    EngineOptions,
    Goal,
    HealthStatus,
    Program,
    UnsupportedField,
)
from controller.models.model import ModelId
from controller.nodes.model import EngineLoad, NodeId
from controller.placement.model import NO_OPTIONS, Options
from mesh.errors import DomainError, Kind
from mesh.identity import OrgId, UserId

DeploymentId = NewType("DeploymentId", str)
InstanceId = NewType("InstanceId", str)


class DeploymentStatus(Enum):
    """Where a deployment stands."""

    DEPLOYING = "deploying"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"


ACTIVE = (DeploymentStatus.DEPLOYING, DeploymentStatus.RUNNING)


class DeploymentNotFoundError(DomainError):
    """There is no such deployment, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "DEPLOYMENT_NOT_FOUND"

    def __init__(self, deployment_id: str) -> None:
        super().__init__(f"there is no deployment {deployment_id}", deployment_id=deployment_id)


class NoPlacementError(DomainError):
    """No node can take the model now; the message says what each lacks."""

    kind, reason = Kind.PRECONDITION, "NO_PLACEMENT"


class PortInUseError(DomainError):
    """Another deployment has the port on every node that would do."""

    kind, reason = Kind.PRECONDITION, "PORT_IN_USE"


class GpuDeviceNotFoundError(DomainError):
    """No node that would do has the device."""

    kind, reason = Kind.PRECONDITION, "GPU_DEVICE_NOT_FOUND"


class LogsUnavailableError(DomainError):
    """The node has no log of the deployment."""

    kind, reason = Kind.NOT_FOUND, "LOGS_UNAVAILABLE"

    def __init__(self, deployment_id: DeploymentId, cause: str) -> None:
        super().__init__(f"the log of {deployment_id} cannot be read: {cause}", deployment_id=deployment_id)


@dataclass(frozen=True, slots=True)
class Observation:
    """What the node last said. `session_epoch` is the session that it was told in.

    `told_progress`, `told_detail`, `told_at` and `container_event` are those of the last events, so that none is told
    twice.
    """

    session_epoch: int = 0
    phase: str = ""
    progress: int = 0
    detail: str = ""
    health_status: HealthStatus = HealthStatus.UNKNOWN
    container_id: str = ""
    engine: str = ""
    port: int = 0
    error_message: str = ""
    error_reason: str = ""
    log_tail: str = ""
    restarts: int = 0
    inference_path: str = ""
    unsupported_fields: tuple[UnsupportedField, ...] = ()
    private_paths: tuple[str, ...] = ()
    grpc_port: int = 0
    single_use_connections: bool = False
    memory_mb: int = 0
    cpu_percent: float = 0.0
    started_at: datetime | None = None
    measured_at: datetime | None = None
    next_attempt_at: datetime | None = None
    told_progress: int = 0
    told_detail: str = ""
    told_at: datetime | None = None
    container_event: str = ""
    adapters: tuple[AdapterReport, ...] = ()


@dataclass(frozen=True, slots=True)
class Deployment:
    """One instance of a model on one node.

    `revision` is that of the node's desired state that this deployment last changed, `request_id` names that change to
    the node, which acknowledges it. `memory_allocated` is what it claims, in megabytes over all its devices. `ended_at`
    is when the node told that nothing of it runs any more. `pinned`: whoever deployed it chose the node, so it never
    leaves it. `requested_devices` are the ones that they chose. `status_reason` says why it stands where it stands, and
    `waiting_since` is set while it waits for a place, or for its node.
    """

    deployment_id: DeploymentId
    instance_id: InstanceId
    org_id: OrgId
    user_id: UserId
    model_id: ModelId
    model_name: str
    framework: str
    task: str
    node_id: NodeId
    image: str
    gpu_devices: tuple[str, ...]
    memory_allocated: int
    requested_port: int
    request_id: str
    revision: int
    created_at: datetime
    changed_at: datetime
    epoch: int = 1
    goal: Goal = Goal.RUN
    pinned: bool = False
    requested_devices: tuple[str, ...] = ()
    requested_image: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    program: Program = field(default_factory=Program)
    # The set that it is a replica of, and the revision of the set's template; empty and 0 when it stands alone.
    replica_set_id: str = ""
    template_revision: int = 0
    # The deployment whose place it takes, because that one's node is to be emptied.
    replaces: str = ""
    status: DeploymentStatus = DeploymentStatus.DEPLOYING
    status_reason: str = ""
    waiting_since: datetime | None = None
    observed: Observation = field(default_factory=Observation)
    engine_options: EngineOptions = field(default_factory=EngineOptions)
    adapters: tuple[Adapter, ...] = ()
    deployed_at: datetime | None = None
    stopped_at: datetime | None = None
    ended_at: datetime | None = None
    deleted_at: datetime | None = None
    options: Options = NO_OPTIONS
    model_revision: str = ""
    # The nodes that it failed on, for their sake, since it ran last.
    failed_on: tuple[NodeId, ...] = ()

    @property
    def container_name(self) -> str:
        """What the node calls the container or process."""
        return f"model-{self.model_id}-{self.instance_id}"

    @property
    def endpoint(self) -> str:
        """The path of the instance's own inference call at the gateway."""
        return f"/models/{self.model_name}/{self.instance_id}/v1/inference"

    @property
    def gpu_device(self) -> str:
        """The devices as one word: "0" or "0,1"; empty on a CPU node."""
        return ",".join(self.gpu_devices)

    @property
    def port(self) -> int:
        """The engine's port; 0 until the node has chosen one."""
        return self.observed.port or self.requested_port

    @property
    def active(self) -> bool:
        """Whether it claims memory and its port."""
        return self.status in ACTIVE

    @property
    def wish(self) -> Wish:
        """What was asked of it, but for the node."""
        return Wish(
            self.model_id,
            gpu_devices=self.requested_devices,
            port=self.requested_port,
            image=self.requested_image,
            environment=self.environment,
            program=self.program,
            options=self.options,
            engine_options=self.engine_options,
            model_revision=self.model_revision,
            adapters=self.adapters,
        )

    @property
    def memory_limit_mb(self) -> int:
        """What it may use of each device, or of the node's RAM."""
        return memory_limit_mb(self.memory_allocated, self.gpu_devices)

    @property
    def loaded_adapters(self) -> tuple[Adapter, ...]:
        """Those of its adapters that its engine has."""
        present = {each.name for each in self.observed.adapters if each.loaded}
        return tuple(each for each in self.adapters if each.name in present)

    def having(self, adapters: tuple[Adapter, ...], revision: int, request_id: str, now: datetime) -> "Deployment":
        """It is to have these adapters and no others."""
        return replace(self, adapters=adapters, revision=revision, request_id=request_id, changed_at=now)

    def stop(self, revision: int, request_id: str, now: datetime) -> "Deployment":
        """It is to end; the routes lose it at once. The same deployment when it was stopped before."""
        if self.status is DeploymentStatus.STOPPED:
            return self
        return replace(
            self,
            status=DeploymentStatus.STOPPED,
            status_reason="",
            waiting_since=None,
            goal=Goal.END,
            request_id=request_id,
            revision=revision,
            stopped_at=now,
            changed_at=now,
        )

    def wait(self, reason: str, now: datetime) -> "Deployment":
        """Its node is gone and it has no other place yet. A pinned one may well go on there, unseen."""
        if self.waiting_since is not None and self.status_reason == reason:
            return self
        phase, progress = (self.observed.phase, self.observed.progress) if self.pinned else ("", 0)
        return replace(
            self,
            status=self.status if self.pinned else DeploymentStatus.DEPLOYING,
            status_reason=reason,
            waiting_since=self.waiting_since or now,
            observed=replace(self.observed, phase=phase, progress=progress, health_status=HealthStatus.UNKNOWN),
            changed_at=now,
        )

    def move(self, place: "Place", reason: str, now: datetime) -> "Deployment":
        """It goes to another node under the next epoch; whatever still runs of this one gets no traffic any more."""
        return replace(
            self,
            node_id=place.node_id,
            image=place.image,
            gpu_devices=place.gpu_devices,
            memory_allocated=place.memory_allocated,
            request_id=place.request_id,
            revision=place.revision,
            epoch=self.epoch + 1,
            goal=Goal.RUN,
            ended_at=None,
            status=DeploymentStatus.DEPLOYING,
            status_reason=reason,
            waiting_since=None,
            observed=Observation(),
            changed_at=now,
        )

    def evict(self, revision: int, request_id: str, reason: str, now: datetime) -> "Deployment":
        """It makes room for a higher priority: it ends here, and waits for another place."""
        return replace(
            self,
            goal=Goal.END,
            status=DeploymentStatus.DEPLOYING,
            status_reason=reason,
            waiting_since=now,
            request_id=request_id,
            revision=revision,
            observed=replace(self.observed, phase="", progress=0, error_message=reason),
            changed_at=now,
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a deployment goes, and the change of that node's desired state that tells it.

    `told` is what else to tell with the same commit: who made room for it.
    """

    node_id: NodeId
    image: str
    gpu_devices: tuple[str, ...]
    memory_allocated: int
    request_id: str
    revision: int
    told: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Membership:
    """What a new deployment is part of: a set and a revision of its template, or the deployment that it replaces."""

    replica_set_id: str = ""
    template_revision: int = 0
    replaces: str = ""


ALONE = Membership()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a deployment uses, as its node last said; sizes in megabytes."""

    deployment_id: DeploymentId
    memory_mb: int
    cpu_percent: float
    restarts: int
    uptime_seconds: float
    measured_at: datetime | None
    engine_load: EngineLoad | None = None


@dataclass(frozen=True, slots=True)
class DeploymentCreated:
    """A deployment was placed."""

    deployment: Deployment
    at: datetime


@dataclass(frozen=True, slots=True)
class DeploymentStatusChanged:
    """A deployment runs, stopped, failed, or starts again."""

    deployment: Deployment
    at: datetime


@dataclass(frozen=True, slots=True)
class DeploymentEvicted:
    """A deployment made room for one of a higher priority."""

    deployment: Deployment
    evicted_by: DeploymentId
    cause: str
    at: datetime


def memory_limit_mb(memory_allocated: int, gpu_devices: Sequence[str]) -> int:
    """What is claimed of each device, or of the node's RAM without devices."""
    return -(-memory_allocated // max(1, len(gpu_devices)))


def new_instance_id() -> InstanceId:
    """A short name for an instance, fit for a URL: 40 random bits."""
    return InstanceId(base64.b32encode(os.urandom(5)).decode().lower())


def named(names: Sequence[str], most: int = 10) -> str:
    """Some names in a sentence, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more
