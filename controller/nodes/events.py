"""What happened to a node, and what was said between it and the controller."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from controller.nodes.model import FleetGuard, Gauges, Node, NodeId
from mesh.identity import OrgId, UserId


@dataclass(frozen=True, slots=True)
class NodeRegistered:
    """A node was registered, and again when its agent first told of its hardware."""

    node: Node
    at: datetime


@dataclass(frozen=True, slots=True)
class NodeReadingTaken:
    """The gauges of a node, told at a bounded rate."""

    node_id: NodeId
    gauges: Gauges
    at: datetime


@dataclass(frozen=True, slots=True)
class NodeDisconnected:
    """A session that had lasted ended."""

    node_id: NodeId
    org_id: OrgId
    cause: str
    at: datetime


@dataclass(frozen=True, slots=True)
class NodeCameOnline:
    """A node that was offline is there."""

    node: Node
    at: datetime


@dataclass(frozen=True, slots=True)
class NodeWentOffline:
    """A node missed its lease; `node` as it was before."""

    node: Node
    cause: str
    at: datetime


@dataclass(frozen=True, slots=True)
class FleetGuardChanged:
    """So many nodes fell silent together that none is declared lost; without a guard, that is over."""

    guard: FleetGuard | None
    at: datetime


@dataclass(frozen=True, slots=True)
class NodeMaintenanceChanged:
    """A node left or entered placement."""

    node_id: NodeId
    org_id: OrgId
    maintenance: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class NodeRemoved:
    """A node left the fleet for good."""

    node_id: NodeId
    org_id: OrgId
    removed_by: UserId
    at: datetime


@dataclass(frozen=True, slots=True)
class WorkloadAssigned:
    """A node was told to run a workload. `memory_limit` like "8g", `ports` like "8001:8000"."""

    node_id: NodeId
    org_id: OrgId
    request_id: str
    job_id: str
    model_id: str
    framework: str
    model_path: str
    image: str
    gpu_device: str
    memory_limit: str
    ports: str
    at: datetime
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkloadEnded:
    """A node was told to end a workload."""

    node_id: NodeId
    org_id: OrgId
    request_id: str
    container_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class CommandAcknowledged:
    """A node accepted or rejected what it was told."""

    node_id: NodeId
    org_id: OrgId
    request_id: str
    status: str
    cause: str
    at: datetime


@dataclass(frozen=True, slots=True)
class DeploymentProgressed:
    """A node is on its way to run a workload; `status` is downloading, extracting, starting, running or failed."""

    node_id: NodeId
    org_id: OrgId
    deployment_id: str
    request_id: str
    job_id: str
    status: str
    progress: int
    container_id: str
    error: str
    at: datetime
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ContainerChanged:
    """A workload's container or process started, stopped, died, or was killed for its memory (`oom`)."""

    node_id: NodeId
    org_id: OrgId
    container_id: str
    event: str
    exit_code: int | None
    error: str
    at: datetime


NodeEvent = (
    NodeRegistered
    | NodeReadingTaken
    | NodeDisconnected
    | NodeCameOnline
    | NodeWentOffline
    | NodeMaintenanceChanged
    | NodeRemoved
    | WorkloadAssigned
    | WorkloadEnded
    | CommandAcknowledged
    | DeploymentProgressed
    | ContainerChanged
)
