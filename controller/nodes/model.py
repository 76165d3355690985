"""A node: what it is, what state it is in, and what may happen to it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import NewType, TypeVar

from controller.nodes.devices import GpuDevice
from controller.nodes.runtimes import NO_RUNTIMES, Runtimes
from mesh.errors import DomainError, FieldViolation, InvalidRequestError, Kind
from mesh.identity import OrgId, UserId

NodeId = NewType("NodeId", str)
Value = TypeVar("Value")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,253}[A-Za-z0-9])?")


class NodeRole(Enum):
    """What a node is for."""

    CONTROLLER = "controller"
    WORKER = "worker"
    PROXY = "proxy"
    STORAGE = "storage"


class NodeStatus(Enum):
    """Whether a node is there. A node in maintenance is there, and takes nothing new."""

    ONLINE = "online"
    OFFLINE = "offline"
    MAINTENANCE = "maintenance"


class NodeNotFoundError(DomainError):
    """There is no such node, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "NODE_NOT_FOUND"

    def __init__(self, node_id: str) -> None:
        super().__init__(f"there is no node {node_id}", node_id=node_id)


class NodeExistsError(DomainError):
    """The organisation has a node of that name."""

    kind, reason = Kind.EXISTS, "NODE_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a node named {name!r}; choose another name", name=name)


class NodeOfflineError(DomainError):
    """The node is not there."""

    kind, reason = Kind.PRECONDITION, "NODE_OFFLINE"

    def __init__(self, node_id: NodeId) -> None:
        super().__init__(f"node {node_id} is offline; start its agent and try again", node_id=node_id)


class NodeInUseError(DomainError):
    """Deployments run on the node."""

    kind, reason = Kind.PRECONDITION, "NODE_IN_USE"

    def __init__(self, node_id: NodeId, deployments: int) -> None:
        super().__init__(
            f"{deployments} deployments are on node {node_id}; stop them first, or send force",
            node_id=node_id,
            deployments=str(deployments),
        )


class NodeRemovedError(DomainError):
    """The node was removed; its certificate is worth nothing any more."""

    kind, reason = Kind.FORBIDDEN, "NODE_REMOVED"

    def __init__(self, node_id: str) -> None:
        super().__init__(f"node {node_id} is not part of the fleet; register it and join again", node_id=node_id)


class JoinTokenInvalidError(DomainError):
    """The join token is unknown, was used, or has run out; which one is not said."""

    kind, reason = Kind.UNAUTHENTICATED, "JOIN_TOKEN_INVALID"

    def __init__(self) -> None:
        super().__init__("the join token is unknown, was used or has run out; ask for a new one")


class SessionSupersededError(DomainError):
    """The node has opened a newer session; this one has no say any more."""

    kind, reason = Kind.ABORTED, "SESSION_SUPERSEDED"

    def __init__(self, node_id: str) -> None:
        super().__init__(f"node {node_id} has a newer session; this one ends", node_id=node_id)


class SessionExpiredError(DomainError):
    """The lease ran out while the node was silent; what it runs may have moved, so it has to introduce itself anew."""

    kind, reason = Kind.ABORTED, "SESSION_EXPIRED"

    def __init__(self, node_id: str) -> None:
        super().__init__(f"node {node_id} was silent for longer than its lease; open a new session", node_id=node_id)


class NodeMismatchError(DomainError):
    """The certificate belongs to another node than the message names."""

    kind, reason = Kind.FORBIDDEN, "NODE_MISMATCH"


class NodeUnreachableError(DomainError):
    """The node has no open session here, or did not answer in time."""

    kind, reason = Kind.UNAVAILABLE, "NODE_UNREACHABLE"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Where the agent connects and works."""

    controller_endpoint: str = ""
    working_directory: str = ""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The connections that a node keeps open to the gateway instead of a port; `version` is that of its Envoy."""

    state: str = ""
    version: str = ""
    error: str = ""
    connections: int = 0
    gateway_address: str = ""


@dataclass(frozen=True, slots=True)
class Gauges:
    """What moves: a reading of a node, sizes in megabytes. Without a `tunnel` the gateway dials the node."""

    gpu_devices: tuple[GpuDevice, ...] = ()
    cpu_utilization: float = 0.0
    ram_total: int = 0
    ram_free: int = 0
    disk_total: int = 0
    disk_free: int = 0
    measured_at: datetime | None = None
    tunnel: Tunnel | None = None
    runtimes: Runtimes = NO_RUNTIMES


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy an engine is; tokens, requests and seconds to first tokens are counted since its start."""

    running_requests: int = 0
    waiting_requests: int = 0
    kv_cache_percent: float = 0.0
    prompt_tokens: float = 0.0
    generated_tokens: float = 0.0
    requests: float = 0.0
    first_token_seconds: float = 0.0
    first_tokens: float = 0.0
    counts_tokens: bool = False
    counts_requests: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """A workload as its node last described it."""

    container_id: str
    container_name: str = ""
    image: str = ""
    runtime: str = ""
    workload_id: str = ""
    replica: int = 0
    epoch: int = 0
    status: str = ""
    port: int = 0
    pid: int = 0
    memory_mb: int = 0
    cpu_percent: float = 0.0
    restarts: int = 0
    started_at: datetime | None = None
    engine_load: EngineLoad | None = None
    gpu_memory_mb: int = 0


@dataclass(frozen=True, slots=True)
class LogPage:
    """A piece of a workload's log, as its node answers.

    `next_offset` is that of the byte after the last. `end`: nothing follows now. `error` says why there is no content.
    """

    content: bytes
    offset: int
    next_offset: int
    end: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class FleetGuard:
    """So many of the nodes with a lease fell silent together that it must be us: nobody is declared lost."""

    silent: int
    leased: int
    held_since: datetime


@dataclass(frozen=True, slots=True)
class Invitation:
    """What an agent joins with: a token for one use, and the URL to use it at."""

    token: str = field(repr=False)
    expires_at: datetime
    url: str


@dataclass(frozen=True, slots=True)
class Greeting:
    """What an agent says of its machine when it opens a session."""

    boot_id: str
    agent_version: str
    agent_address: str
    cpu_cores: int
    runtimes: tuple[str, ...]
    engines: tuple[str, ...]
    driver_version: str
    gpu_error: str
    gauges: Gauges


@dataclass(frozen=True, slots=True)
class Node:
    """A machine. `desired_revision` counts the changes of what it is to run; `session_epoch` the sessions it opened."""

    node_id: NodeId
    name: str
    org_id: OrgId
    user_id: UserId
    created_at: datetime
    changed_at: datetime
    deleted_at: datetime | None = None
    role: tuple[NodeRole, ...] = (NodeRole.WORKER,)
    is_local: bool = False
    # What an operator set; empty leaves it to the agent.
    vpn_ip: str = ""
    config: NodeConfig = NodeConfig()
    labels: Mapping[str, str] = field(default_factory=dict)
    status: NodeStatus = NodeStatus.OFFLINE
    in_maintenance: bool = False
    # What runs here is to run elsewhere, then end.
    draining: bool = False
    # Where the controller that holds its session can be asked, by other controllers.
    session_holder: str = ""
    websocket_connected: bool = False
    session_epoch: int = 0
    session_started_at: datetime | None = None
    last_heartbeat: datetime | None = None
    lease_expires_at: datetime | None = None
    desired_revision: int = 0
    applied_revision: int = 0
    boot_id: str = ""
    agent_version: str = ""
    agent_address: str = ""
    cpu_cores: int = 0
    runtimes: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    driver_version: str = ""
    gpu_error: str = ""
    gauges: Gauges = Gauges()

    @property
    def address(self) -> str:
        """The host or IP that the gateway dials for this node's engines."""
        return self.vpn_ip or self.agent_address

    @property
    def live(self) -> bool:
        """Whether what runs here may receive traffic."""
        return self.status is not NodeStatus.OFFLINE and self.deleted_at is None

    def enter_maintenance(self, now: datetime) -> "Node":
        """Out of placement; what runs keeps running. NodeOfflineError when the node is not there."""
        if self.status is NodeStatus.OFFLINE:
            raise NodeOfflineError(self.node_id)
        if self.in_maintenance:
            return self
        return replace(self, in_maintenance=True, status=NodeStatus.MAINTENANCE, changed_at=now)

    def drain(self, now: datetime) -> "Node":
        """Out of placement, and what runs is to run elsewhere. NodeOfflineError when the node is not there."""
        return self if self.draining else replace(self.enter_maintenance(now), draining=True, changed_at=now)

    def exit_maintenance(self, now: datetime) -> "Node":
        """Back into placement, at once or when the node returns."""
        if not self.in_maintenance:
            return self
        status = NodeStatus.OFFLINE if self.status is NodeStatus.OFFLINE else NodeStatus.ONLINE
        return replace(self, in_maintenance=False, draining=False, status=status, changed_at=now)

    def open_session(self, greeting: Greeting, now: datetime, lease_expires_at: datetime, holder: str = "") -> "Node":
        """The agent connected: the next epoch begins, and every earlier session is over."""
        return replace(
            self,
            status=NodeStatus.MAINTENANCE if self.in_maintenance else NodeStatus.ONLINE,
            websocket_connected=True,
            last_heartbeat=now,
            lease_expires_at=lease_expires_at,
            session_holder=holder,
            session_epoch=self.session_epoch + 1,
            session_started_at=now,
            boot_id=greeting.boot_id,
            agent_version=greeting.agent_version,
            agent_address=greeting.agent_address,
            cpu_cores=greeting.cpu_cores,
            runtimes=greeting.runtimes,
            engines=greeting.engines,
            driver_version=greeting.driver_version,
            gpu_error=greeting.gpu_error,
            gauges=replace(greeting.gauges, measured_at=now),
        )

    def lose(self) -> "Node":
        """The lease ran out."""
        return replace(self, status=NodeStatus.OFFLINE, websocket_connected=False, lease_expires_at=None)

    def remove(self, now: datetime) -> "Node":
        """Out of the fleet for good."""
        return replace(self.lose(), deleted_at=now, changed_at=now)


@dataclass(frozen=True, slots=True)
class NodeChanges:
    """New values of the fields that may be changed; None leaves a field as it is."""

    name: str | None = None
    role: tuple[NodeRole, ...] | None = None
    vpn_ip: str | None = None
    controller_endpoint: str | None = None
    working_directory: str | None = None
    labels: Mapping[str, str] | None = None

    def apply(self, node: Node, now: datetime) -> Node:
        """The node with the changes; the same object when nothing changes. InvalidRequestError for a wrong value."""
        if self.name is not None and not self.name:
            raise InvalidRequestError(FieldViolation("node.name", "must not be empty"))
        if self.vpn_ip is not None:
            check_host("node.vpn_ip", self.vpn_ip)
        changed = replace(
            node,
            name=_changed(node.name, self.name),
            role=_changed(node.role, self.role) or (NodeRole.WORKER,),
            vpn_ip=_changed(node.vpn_ip, self.vpn_ip),
            config=NodeConfig(
                _changed(node.config.controller_endpoint, self.controller_endpoint),
                _changed(node.config.working_directory, self.working_directory),
            ),
            labels=_changed(node.labels, self.labels),
        )
        return node if changed == node else replace(changed, changed_at=now)


def check_host(path: str, host: str) -> None:
    """InvalidRequestError for a host that could not be dialled; empty is none."""
    if host and not _HOST.fullmatch(host):
        raise InvalidRequestError(FieldViolation(path, "must be a host name or an IP address"))


def _changed(present: Value, wanted: Value | None) -> Value:
    return present if wanted is None else wanted
