"""The loop that empties nodes: a replacement comes up elsewhere first, then what was on the node ends."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from controller.deployments.model import Deployment, DeploymentId, DeploymentStatus, Membership
from controller.deployments.retries import Retries
from controller.deployments.service import deployed, stopped
from controller.deployments.stores import UnitOfWork, Work
from controller.deployments.workload import Goal
from controller.hints import Hints
from mesh.clock import Clock
from mesh.errors import ConflictError, DomainError, Kind
from mesh.identity import SYSTEM
from mesh.loops import Backoff, Wake
from mesh.sql.database import retry_conflicts

log = logging.getLogger(__name__)

LOOK_EVERY = timedelta(seconds=1)
# Routes follow an instance within a second, so one that has run for so long is reached.
ROUTED_AFTER = timedelta(seconds=2)
# What found no place, or whose replacement failed, is tried again after so long, and when the fleet has changed.
PATIENCE = Backoff(first=timedelta(seconds=2), limit=timedelta(seconds=30))


class Drainer:
    """Level-triggered, each step under the deployment's lock: safe late, twice, and in several controllers.

    Replicas of sets are left to their sets, which put others in their place.
    """

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints, clock: Clock) -> None:
        self._unit_of_work, self._hints = unit_of_work, hints
        self._wake = Wake()
        self._retries = Retries[DeploymentId](PATIENCE, clock)

    @contextmanager
    def watching(self) -> Iterator["Drainer"]:
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
        """Takes each deployment on a node that is being emptied one step further."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            leaving, needless = await work.deployments.leaving(), await work.deployments.needless()
        for each in self._retries.due(leaving):
            await self._try(each)
        for each in needless:
            await self._stop(each)

    async def _try(self, deployment_id: DeploymentId) -> None:
        try:
            touched, refusal = await retry_conflicts(lambda: self._replace(deployment_id))
        except ConflictError:
            return
        if refusal:
            self._retries.add(deployment_id)
        for each in touched:
            self._hints.node_changed(each.node_id)
        if touched:
            self._hints.replicas_changed()

    async def _replace(self, deployment_id: DeploymentId) -> tuple[list[Deployment], str]:
        """One step of one deployment: what was told something new, and why its replacement has no place."""
        async with self._unit_of_work(SYSTEM) as work:
            known = await work.deployments.get(deployment_id, SYSTEM)
            # Model, deployment, node: everybody locks them in this order.
            model = await work.models.get(known.model_id, SYSTEM, lock=True)
            before = await work.deployments.get(deployment_id, SYSTEM, lock=True)
            home = await work.nodes.get(before.node_id, SYSTEM)
            if not before.active or before.goal is not Goal.RUN or not home.draining:
                return [], ""
            successor = await work.deployments.successor(deployment_id)
            if successor is not None:
                return await _hand_over(work, before, successor)
            wish = replace(before.wish, node_id=None)
            try:
                made = await deployed(
                    work, SYSTEM, wish, model, before.user_id, member=Membership(replaces=deployment_id)
                )
            except DomainError as refusal:
                if refusal.kind is not Kind.PRECONDITION:
                    raise
                await _explain(
                    work, before, f"node {home.name} is drained; waiting for another place: {refusal.message}"
                )
                return [], refusal.message
            if made is None:
                return [], ""
            await _explain(
                work, before, f"node {home.name} is drained; {made[0].deployment_id} takes its place", *made[1]
            )
            return [made[0]], ""

    async def _stop(self, deployment_id: DeploymentId) -> None:
        """Ends a replacement that nobody needs: what it was for has moved, or stays after all."""
        async with self._unit_of_work(SYSTEM) as work:
            after, told = await stopped(work, await work.deployments.get(deployment_id, SYSTEM, lock=True))
            await work.commit(*told)
        self._hints.replicas_changed()
        self._hints.node_changed(after.node_id)


async def _hand_over(work: Work, before: Deployment, successor: Deployment) -> tuple[list[Deployment], str]:
    """Ends the old one when the new one is reached; a new one that failed ends, and another is tried later."""
    now = await work.nodes.now()
    if successor.status is DeploymentStatus.FAILED:
        cause = f"its replacement {successor.deployment_id} failed: {successor.observed.error_message}"
        ended, told = await stopped(work, await work.deployments.get(successor.deployment_id, SYSTEM, lock=True))
        await _explain(work, before, cause, *told)
        return [ended], cause
    runs = successor.status is DeploymentStatus.RUNNING and successor.deployed_at is not None
    if not runs or successor.deployed_at is None or now - successor.deployed_at < ROUTED_AFTER:
        return [], ""
    # It stands for itself from now on.
    alone = replace(await work.deployments.get(successor.deployment_id, SYSTEM, lock=True), replaces="")
    await work.deployments.save(alone)
    ended, told = await stopped(work, before)
    ended = replace(ended, status_reason=f"replaced by {successor.deployment_id}, for its node was drained")
    await work.deployments.save(ended)
    await work.commit(*told)
    log.info("%s: %s", ended.deployment_id, ended.status_reason)
    return [ended], ""


async def _explain(work: Work, deployment: Deployment, reason: str, *told: object) -> None:
    if deployment.status_reason != reason:
        await work.deployments.save(replace(deployment, status_reason=reason, changed_at=await work.nodes.now()))
    await work.commit(*told)
