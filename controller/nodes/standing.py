"""What decides whether a node's session may act: little of its row, for it is asked for with every message."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from controller.nodes.model import (
    Container,
    Gauges,
    NodeId,
    NodeRemovedError,
    NodeStatus,
    SessionExpiredError,
    SessionSupersededError,
)
from mesh.identity import OrgId


@dataclass(frozen=True, slots=True)
class Standing:
    """A node that is part of the fleet, as far as its session is concerned."""

    node_id: NodeId
    org_id: OrgId
    status: NodeStatus
    in_maintenance: bool
    session_epoch: int
    session_started_at: datetime | None
    lease_expires_at: datetime | None
    desired_revision: int

    def check(self, session_epoch: int) -> None:
        """SessionSupersededError when there is a newer session."""
        if self.session_epoch != session_epoch:
            raise SessionSupersededError(self.node_id)

    def renew(self, session_epoch: int, lease_expires_at: datetime) -> "Standing":
        """The node with a new lease. SessionSupersededError, and SessionExpiredError when the lease had run out."""
        self.check(session_epoch)
        if self.status is NodeStatus.OFFLINE:
            raise SessionExpiredError(self.node_id)
        status = NodeStatus.MAINTENANCE if self.in_maintenance else NodeStatus.ONLINE
        return replace(self, status=status, lease_expires_at=lease_expires_at)


def present(standing: Standing | None, node_id: NodeId) -> Standing:
    """The standing. NodeRemovedError without one."""
    if standing is None:
        raise NodeRemovedError(node_id)
    return standing


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a heartbeat changes of its node's row."""

    standing: Standing
    gauges: Gauges
    applied_revision: int


class StandingStore(Protocol):
    async def get(self, node_id: NodeId, *, lock: bool = False) -> Standing | None: ...
    async def lock_all(self, node_ids: Sequence[NodeId]) -> dict[NodeId, Standing]: ...
    async def renew(self, renewals: Sequence[Renewal], now: datetime) -> None: ...
    async def disconnect(self, node_id: NodeId) -> None: ...
    async def save_containers(self, running: Sequence[tuple[Standing, Sequence[Container]]], now: datetime) -> None: ...
