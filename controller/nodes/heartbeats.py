"""Heartbeats of many nodes, written together: one transaction for all that come at about the same time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from controller.nodes.events import NodeReadingTaken
from controller.nodes.model import (
    Container,
    Gauges,
    Node,
    NodeId,
    NodeRemovedError,
    SessionExpiredError,
    SessionSupersededError,
)
from controller.nodes.service import UnitOfWork
from mesh.identity import SYSTEM
from mesh.sharing import SharedWrites

# A lease of seconds does not mind, and 200 heartbeats a second become ten transactions.
COMPANY_S = 0.1


@dataclass(frozen=True, slots=True)
class Beat:
    """What one heartbeat says; `tell` writes its reading as an event too."""

    node_id: NodeId
    session_epoch: int
    gauges: Gauges
    containers: tuple[Container, ...]
    applied_revision: int
    tell: bool


class Heartbeats:
    """Renews leases. What runs on a node is written only when it is not what was written last."""

    def __init__(self, unit_of_work: UnitOfWork, lease: timedelta) -> None:
        self._unit_of_work = unit_of_work
        self._lease = lease
        self._writes = SharedWrites[Beat, Node](self._write, company_s=COMPANY_S)
        self._containers: dict[NodeId, tuple[int, tuple[Container, ...]]] = {}

    async def take(self, beat: Beat) -> Node:
        """The node with a new lease.

        SessionSupersededError, NodeRemovedError, and SessionExpiredError when the lease had run out before.
        """
        return await self._writes.put(beat)

    def forget(self, node_id: NodeId) -> None:
        """The node's session is over here."""
        self._containers.pop(node_id, None)

    async def _write(self, beats: Sequence[Beat]) -> Sequence[Node | Exception]:
        outcomes, events, written = list[Node | Exception](), list[NodeReadingTaken](), list[Beat]()
        async with self._unit_of_work(SYSTEM) as work:
            present = await work.nodes.get_all({beat.node_id for beat in beats})
            now, beaten = await work.nodes.now(), dict[NodeId, Node]()
            for beat in beats:
                refusal = _refusal(beat, present.get(beat.node_id))
                if refusal is not None:
                    outcomes.append(refusal)
                    continue
                after = present[beat.node_id].heartbeat(beat.gauges, beat.applied_revision, now, now + self._lease)
                present[beat.node_id] = beaten[beat.node_id] = after
                outcomes.append(after)
                events += [NodeReadingTaken(after, now)] if beat.tell else []
                if self._containers.get(beat.node_id) != (beat.session_epoch, beat.containers):
                    await work.nodes.save_containers(after, beat.containers, now)
                    written.append(beat)
            await work.nodes.save_readings(beaten.values())
            await work.commit(*events)
        for beat in written:
            self._containers[beat.node_id] = (beat.session_epoch, beat.containers)
        return outcomes


def _refusal(beat: Beat, node: Node | None) -> Exception | None:
    if node is None:
        return NodeRemovedError(beat.node_id)
    if node.session_epoch != beat.session_epoch:
        return SessionSupersededError(beat.node_id)
    return None if node.live else SessionExpiredError(beat.node_id)
