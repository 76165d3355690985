"""Heartbeats of many nodes, written together: one transaction for all that come at about the same time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from controller.nodes.counters import CounterMemory, counts_of
from controller.nodes.events import NodeReadingTaken
from controller.nodes.model import Container, Gauges, NodeId
from controller.nodes.service import UnitOfWork
from controller.nodes.standing import Renewal, Standing, present
from mesh.errors import DomainError
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
        self._writes = SharedWrites[Beat, Standing](self._write, company_s=COMPANY_S)
        self._containers: dict[NodeId, tuple[int, tuple[Container, ...]]] = {}
        self._counters = CounterMemory()

    async def take(self, beat: Beat) -> Standing:
        """The node with a new lease.

        SessionSupersededError, NodeRemovedError, and SessionExpiredError when the lease had run out before.
        """
        return await self._writes.put(beat)

    def forget(self, node_id: NodeId) -> None:
        """The node's session is over here."""
        self._containers.pop(node_id, None)
        self._counters.forget(node_id)

    async def _write(self, beats: Sequence[Beat]) -> Sequence[Standing | Exception]:
        outcomes, renewals = list[Standing | Exception](), dict[NodeId, Renewal]()
        events, running, heard = list[NodeReadingTaken](), dict[NodeId, Beat](), list[Beat]()
        async with self._unit_of_work(SYSTEM) as work:
            there = await work.standings.lock_all([beat.node_id for beat in beats])
            now = await work.nodes.now()
            for beat in beats:
                try:
                    after = present(there.get(beat.node_id), beat.node_id).renew(beat.session_epoch, now + self._lease)
                except DomainError as refusal:
                    outcomes.append(refusal)
                    continue
                outcomes.append(after)
                heard.append(beat)
                renewals[beat.node_id] = Renewal(after, beat.gauges, beat.applied_revision)
                events += [NodeReadingTaken(beat.node_id, beat.gauges, now)] if beat.tell else []
                if self._containers.get(beat.node_id) != (beat.session_epoch, beat.containers):
                    running[beat.node_id] = beat
            await work.standings.renew(list(renewals.values()), now)
            said = [(renewals[node_id].standing, beat.containers) for node_id, beat in running.items()]
            await work.standings.save_containers(said, now)
            counted = [(beat.node_id, counts_of(beat.node_id, beat.containers)) for beat in heard]
            if new := self._counters.new(counted, now):
                await work.engine_counters.count(new, now)
            await work.commit(*events)
        self._counters.keep(counted, now)
        for node_id, beat in running.items():
            self._containers[node_id] = (beat.session_epoch, beat.containers)
        return outcomes
