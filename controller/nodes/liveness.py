"""Whether nodes are there: sessions open and close, heartbeats renew leases, and who misses theirs is taken away."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.hints import Hints
from controller.nodes.events import (
    CommandAcknowledged,
    FleetGuardChanged,
    NodeCameOnline,
    NodeDisconnected,
    NodeRegistered,
    NodeWentOffline,
)
from controller.nodes.heartbeats import Beat, Heartbeats
from controller.nodes.model import (
    FleetGuard,
    Greeting,
    Node,
    NodeId,
    NodeNotFoundError,
    NodeRemovedError,
    NodeStatus,
    SessionSupersededError,
)
from controller.nodes.service import UnitOfWork, Work
from controller.nodes.standing import Standing, present
from mesh.identity import SYSTEM

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LivenessRules:
    """How long a silent node counts as there, and when losing nodes looks like our own fault.

    When at least `mass_least` nodes and more than `mass_percent` of the fleet fall silent together, the controller is
    the one that is cut off: nobody is declared lost until some are heard again.
    """

    lease: timedelta = timedelta(seconds=15)
    heartbeat: timedelta = timedelta(seconds=5)
    # How often a heartbeat is told as an event.
    telling: timedelta = timedelta(seconds=30)
    # A session shorter than this ends without an event: a flapping link is no news.
    lasting: timedelta = timedelta(seconds=5)
    mass_least: int = 3
    mass_percent: int = 50


class Liveness:
    """The part of a node's state that its agent's session moves. Times are the database's."""

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints, rules: LivenessRules, holder: str = "") -> None:
        """`holder` is where other controllers reach this one, which holds the sessions that open here."""
        self._unit_of_work = unit_of_work
        self._holder = holder
        self._hints = hints
        self.rules = rules
        self._heartbeats = Heartbeats(unit_of_work, rules.lease)

    async def open_session(self, node_id: NodeId, greeting: Greeting) -> Node:
        """The next session of the node begins; every earlier one has no say any more. NodeRemovedError."""
        async with self._unit_of_work(SYSTEM) as work:
            try:
                before = await work.nodes.get(node_id, SYSTEM, lock=True)
            except NodeNotFoundError as error:
                raise NodeRemovedError(node_id) from error
            now = await work.nodes.now()
            after = before.open_session(greeting, now, now + self.rules.lease, self._holder)
            await work.nodes.save(after)
            first = [NodeRegistered(after, now)] if before.session_epoch == 0 else []
            await work.commit(*first, *_returned(before, after, now))
        # A fleet that comes back as it was is no news: whoever waits would look at all of it for each node.
        if _serves(before) != _serves(after):
            self._hints.replicas_changed()
        if _offers(before) != _offers(after):
            self._hints.fleet_changed()
        return after

    async def heartbeat(self, beat: Beat) -> Standing:
        """Renews the lease.

        SessionSupersededError, NodeRemovedError, and SessionExpiredError when the lease had run out before.
        """
        return await self._heartbeats.take(beat)

    async def check_session(self, node_id: NodeId, session_epoch: int) -> Standing:
        """The node, when this is still its session. SessionSupersededError, NodeRemovedError."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            return await _held(work, node_id, session_epoch, lock=False)

    async def close_session(self, node_id: NodeId, session_epoch: int, cause: str) -> None:
        """The stream ended. Does nothing when a newer session is open or the node is gone."""
        self._heartbeats.forget(node_id)
        async with self._unit_of_work(SYSTEM) as work:
            try:
                before = await _held(work, node_id, session_epoch)
            except (SessionSupersededError, NodeRemovedError):
                return
            now = await work.nodes.now()
            await work.standings.disconnect(node_id)
            started_at = before.session_started_at or now
            lasted = now - started_at >= self.rules.lasting
            await work.commit(*([NodeDisconnected(node_id, before.org_id, cause, now)] if lasted else []))

    async def acknowledge(
        self, node_id: NodeId, session_epoch: int, request_id: str, *, accepted: bool, cause: str
    ) -> None:
        """Tells that the node accepted or rejected a command. SessionSupersededError, NodeRemovedError."""
        async with self._unit_of_work(SYSTEM) as work:
            node = await _held(work, node_id, session_epoch)
            status = "accepted" if accepted else "rejected"
            now = await work.nodes.now()
            await work.commit(CommandAcknowledged(node_id, node.org_id, request_id, status, cause, now))

    async def now(self) -> datetime:
        """The time by which leases end: the database's."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            return await work.nodes.now()

    async def lose_silent(self, now: datetime, *, sure: bool) -> Sequence[NodeId]:
        """Takes away the nodes whose lease had run out at `now`, a time of the database.

        Nobody when so many went silent at once that it must be us, or when we are not `sure` to have listened enough.
        """
        async with self._unit_of_work(SYSTEM) as work:
            lost = await work.nodes.lost(now)
            if not sure:
                return ()
            guard = await self._guard(work, now) if lost else None
            changed = await work.nodes.guard(guard)
            if guard is not None:
                lost = ()
            for node in lost:
                await work.nodes.save(node.lose())
            if not lost and not changed:
                return ()
            events = [NodeWentOffline(node, "the lease ran out", now) for node in lost]
            await work.commit(*([FleetGuardChanged(guard, now)] if changed else []), *events)
        if changed:
            log.warning(_told(guard))
        if lost:
            log.warning("nodes went offline: %s", ", ".join(node.node_id for node in lost))
            self._hints.replicas_changed()
            self._hints.fleet_changed()
        return tuple(node.node_id for node in lost)

    async def _guard(self, work: Work, now: datetime) -> FleetGuard | None:
        # Heartbeats are spread over time, and so are the ends of leases: whoever has been silent for half of one when
        # the first lease ends fell silent with it.
        silent, leased = await work.nodes.count_leased(now + self.rules.lease / 2)
        alarming = silent >= self.rules.mass_least and silent * 100 > leased * self.rules.mass_percent
        return FleetGuard(silent, leased, now) if alarming else None


async def _held(work: Work, node_id: NodeId, session_epoch: int, *, lock: bool = True) -> Standing:
    standing = present(await work.standings.get(node_id, lock=lock), node_id)
    standing.check(session_epoch)
    return standing


def _serves(node: Node) -> tuple[object, ...]:
    """What decides whether and how instances on the node receive traffic."""
    return (node.live, node.address, node.gauges.tunnel is not None)


def _offers(node: Node) -> tuple[object, ...]:
    """What decides what can be placed on the node, but for the memory that is free at the moment."""
    gauges = node.gauges
    devices = [(each.device_id, each.memory_total, each.usable, each.single) for each in gauges.gpu_devices]
    return (node.status, node.engines, node.runtimes, gauges.runtimes, gauges.ram_total, devices)


def _told(guard: FleetGuard | None) -> str:
    if guard is None:
        return "nodes are heard again; who is silent now is taken away"
    return f"{guard.silent} of {guard.leased} nodes fell silent together; taking none of them away"


def _returned(before: Node, after: Node, now: datetime) -> list[NodeCameOnline]:
    return [NodeCameOnline(after, now)] if before.status is NodeStatus.OFFLINE else []
