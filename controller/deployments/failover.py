"""The loop that gives deployments another place when their node is lost or fails them: the same one, the next epoch."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from controller.deployments.model import Deployment, DeploymentId, DeploymentStatusChanged
from controller.deployments.node_failures import may_leave, remembering_node
from controller.deployments.places import find_place, plan_for, sent_away
from controller.deployments.retries import Retries
from controller.deployments.service import PARALLEL_PLACEMENTS, assigned
from controller.deployments.stores import UnitOfWork, Work
from controller.deployments.workload import Goal
from controller.hints import Hints
from controller.models.model import Model, ModelNotFoundError
from controller.nodes.model import Node, NodeNotFoundError, NodeStatus
from controller.placement.model import Refusal
from mesh.clock import Clock
from mesh.errors import ConflictError, DomainError, Kind
from mesh.identity import SYSTEM
from mesh.loops import Backoff, Wake
from mesh.sql.database import retry_conflicts

log = logging.getLogger(__name__)

LOOK_EVERY = timedelta(seconds=1)
# What found no place is tried again after so long, and whenever the fleet has changed.
PATIENCE = Backoff(first=timedelta(seconds=2), limit=timedelta(seconds=15))
_WAITING = "; waiting for another place: "


class Failover:
    """Looks for deployments whose node is offline, or failed them. Safe twice, late, and in several controllers.

    Whether a node is gone is decided with its lease, in one place; here its row is locked, so that a node that returns
    meanwhile keeps what it has.
    """

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints, clock: Clock) -> None:
        self._unit_of_work, self._hints = unit_of_work, hints
        self._wake = Wake()
        self._retries = Retries[DeploymentId](PATIENCE, clock)

    @contextmanager
    def watching(self) -> Iterator["Failover"]:
        """Looks at once when the fleet changes, while the block lasts."""
        with self._hints.watching_fleet() as self._wake:
            yield self

    async def step(self) -> timedelta:
        """Waits for a change of the fleet or for time to pass, then looks."""
        if await self._wake.wait(LOOK_EVERY):
            self._retries.forget()
        await self.look()
        return timedelta(0)

    async def look(self) -> None:
        """Moves what can be moved now."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            wanting = await work.deployments.stranded() + await work.deployments.failed_for_their_node()
        due = self._retries.due(wanting)
        for start in range(0, len(due), PARALLEL_PLACEMENTS):
            await asyncio.gather(*(self._settle(each) for each in due[start : start + PARALLEL_PLACEMENTS]))

    async def _settle(self, deployment_id: DeploymentId) -> None:
        try:
            after = await retry_conflicts(lambda: self._move(deployment_id))
        except ConflictError:
            return
        if after is None:
            return
        if may_leave(after) or (after.waiting_since is not None and (after.goal is Goal.RUN or after.ended_at)):
            self._retries.add(deployment_id)
        else:
            log.warning("%s: %s", deployment_id, after.status_reason)
            self._hints.node_changed(after.node_id)
        self._hints.replicas_changed()

    async def _move(self, deployment_id: DeploymentId) -> Deployment | None:
        """The deployment in its new place, or waiting for one; None when nothing is to be done, or not now."""
        async with self._unit_of_work(SYSTEM) as work:
            # Model, deployment, node: everybody locks them in this order.
            model = await _model(work, await work.deployments.get(deployment_id, SYSTEM))
            before = await work.deployments.get(deployment_id, SYSTEM, lock=True)
            home = await _home(work, before)
            if may_leave(before):
                return await _leave(work, before, home, model)
            away = home is None or home.status is NodeStatus.OFFLINE
            # One that was evicted goes elsewhere once nothing of it is left where it was.
            evicted = before.goal is Goal.END and before.waiting_since is not None
            if not before.active or not (away or (evicted and before.ended_at is not None)):
                return None
            if before.goal is Goal.END and not evicted:
                return None
            now = await work.nodes.now()
            settled = await _settled(work, before, home, model, now)
            if settled is None or settled[0] is before:
                return before if settled else None
            after, others = settled
            await work.deployments.save(after)
            # That it waits is told once; each refusal is in its reason.
            told = before.waiting_since is None or after.waiting_since is None
            events: list[object] = [DeploymentStatusChanged(after, now)] if told else []
            if model is not None and after.waiting_since is None:
                events.append(assigned(after, model, now))
            await work.commit(*events, *others)
            return after


async def _model(work: Work, deployment: Deployment) -> Model | None:
    try:
        return await work.models.get(deployment.model_id, SYSTEM, lock=True)
    except ModelNotFoundError:
        return None


async def _home(work: Work, deployment: Deployment) -> Node | None:
    try:
        return await work.nodes.get(deployment.node_id, SYSTEM, lock=True)
    except NodeNotFoundError:
        return None


async def _leave(work: Work, before: Deployment, home: Node | None, model: Model | None) -> Deployment:
    """Ends a deployment that its node failed where it is, if another node would take it; else it stays as it is."""
    away = remembering_node(before)
    if model is None or isinstance(await plan_for(work, SYSTEM, away.wish, model, away.failed_on), Refusal):
        return before
    cause = f"{home.name if home else before.node_id} failed it: {before.observed.error_message}"
    after, told = await sent_away(work, away, cause)
    if home is None:
        after = replace(after, ended_at=after.changed_at)
        await work.deployments.save(after)
    await work.commit(*told)
    return after


async def _settled(
    work: Work, before: Deployment, home: Node | None, model: Model | None, now: datetime
) -> tuple[Deployment, tuple[object, ...]] | None:
    """The deployment in its new place, or waiting for one, and what else to tell; None to try again."""
    gone = f"node {home.name if home else before.node_id} went offline"
    if before.goal is Goal.END:
        gone = before.status_reason.split(_WAITING)[0]
    elif before.pinned:
        return before.wait(f"{gone}; this deployment was put there by hand and waits for the node's return", now), ()
    if model is None:
        return before.wait(f"{gone}, and the model was deleted, so no other node can fetch it", now), ()
    wish = replace(before.wish, node_id=before.node_id if before.pinned else None)
    try:
        place = await find_place(work, SYSTEM, before.deployment_id, wish, model, avoid=before.failed_on)
    except DomainError as refusal:
        if refusal.kind is not Kind.PRECONDITION:
            raise
        return before.wait(f"{gone}{_WAITING}{refusal.message}", now), ()
    if place is None:
        return None
    target = await work.nodes.get(place.node_id, SYSTEM)
    return before.move(place, f"moved to {target.name} as epoch {before.epoch + 1}: {gone}", now), place.told
