"""The loop that makes replica sets what they should be."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from controller.deployments.model import Deployment, Membership
from controller.deployments.retries import Retries
from controller.deployments.service import deployed, stopped
from controller.hints import Hints
from controller.models.model import ModelNotFoundError
from controller.replica_sets.decide import Member, Step, decide, standby_of, status_of, why_to_take_back
from controller.replica_sets.model import ReplicaSet, ReplicaSetId, ReplicaSetStatusChanged, SetStatus, Standing
from controller.replica_sets.service import UnitOfWork, Work
from mesh.clock import Clock
from mesh.errors import ConflictError, DomainError, Kind
from mesh.identity import SYSTEM
from mesh.loops import Backoff, Wake
from mesh.sql.database import retry_conflicts

log = logging.getLogger(__name__)

LOOK_EVERY = timedelta(seconds=1)
# What found no place is tried again after so long, and whenever the fleet has changed.
PATIENCE = Backoff(first=timedelta(seconds=2), limit=timedelta(seconds=15))
# One set takes so many steps before the next has its turn.
MOST_STEPS = 20


class Reconciler:
    """Level-triggered over rows, each step under the set's lock: safe late, twice, and in several controllers."""

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints, clock: Clock) -> None:
        self._unit_of_work, self._hints = unit_of_work, hints
        self._wake = Wake()
        self._retries = Retries[ReplicaSetId](PATIENCE, clock)

    @contextmanager
    def watching(self) -> Iterator["Reconciler"]:
        """Looks at once when sets, replicas or the fleet change, while the block lasts."""
        with self._hints.watching_sets() as self._wake:
            yield self

    async def step(self) -> timedelta:
        """Waits for a change or for time to pass, then looks."""
        if await self._wake.wait(LOOK_EVERY):
            self._retries.forget()
        await self.look()
        return timedelta(0)

    async def look(self) -> None:
        """Takes every set as far as it goes now."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            sets = await work.replica_sets.unsettled()
        self._retries.retain({each.replica_set_id for each in sets})
        for each in sets:
            await self._settle(each.replica_set_id)

    async def _settle(self, set_id: ReplicaSetId) -> None:
        for _ in range(MOST_STEPS):
            try:
                if not await retry_conflicts(lambda: self._act(set_id)):
                    return
            except ConflictError:
                return

    async def _act(self, set_id: ReplicaSetId) -> bool:
        """One step; whether there may be another one now."""
        touched: list[Deployment] = []
        async with self._unit_of_work(SYSTEM) as work:
            before = await work.replica_sets.get(set_id, SYSTEM, lock=True)
            members = (await work.replica_sets.members([set_id])).get(set_id, ())
            now = await work.nodes.now()
            events: list[object] = []
            after = await _bury(work, before, members, now, events, touched)
            step = decide(after, [each for each in members if not each.failed], now)
            for each in members:
                if each.deployment.deployment_id in step.end:
                    touched.append(await _end(work, each.deployment, events))
            refusal = ""
            # Ends and starts take turns, so that locks are taken in one order everywhere: model, deployment, node.
            if step.start and not touched:
                refusal = await self._start(work, after, events, touched)
            left = [each for each in members if not each.failed and each.deployment.deployment_id not in step.end]
            after = replace(after, scaling=replace(after.scaling, standby=standby_of(after, left, now)))
            after = _seen(after, step, refusal, now)
            if after != before:
                await work.replica_sets.save(after)
            if _is_news(before, after):
                events.append(ReplicaSetStatusChanged(after, now))
            await work.commit(*events)
        self._tell(touched)
        if after.scaling.standby != before.scaling.standby:
            self._hints.routes_changed()
        return bool(touched) or after.revision != before.revision

    async def _start(self, work: Work, replica_set: ReplicaSet, events: list[object], made: list[Deployment]) -> str:
        """One more replica; answers why there is no place for it, empty when there is."""
        set_id = replica_set.replica_set_id
        if self._retries.waits(set_id):
            return self._retries.why(set_id)
        revision = replica_set.stable_revision if replica_set.paused else replica_set.revision
        template = replica_set.templates.get(revision, replica_set.template)
        wish = template.wish(replica_set.model_id)
        member = Membership(set_id, revision if revision in replica_set.templates else replica_set.revision)
        try:
            model = await work.models.get(replica_set.model_id, SYSTEM, lock=True)
            for each in template.adapters:
                await work.models.get(each.model_id, SYSTEM)
            placed = await deployed(work, SYSTEM, wish, model, replica_set.user_id, member=member)
        except DomainError as refusal:
            if refusal.kind is not Kind.PRECONDITION and not isinstance(refusal, ModelNotFoundError):
                raise
            self._retries.add(set_id, refusal.message)
            return refusal.message
        self._retries.remove(set_id)
        if placed is not None:
            made.append(placed[0])
            events += placed[1]
        return ""

    def _tell(self, touched: list[Deployment]) -> None:
        for each in touched:
            self._hints.node_changed(each.node_id)
        if touched:
            self._hints.replicas_changed()


async def _bury(
    work: Work,
    replica_set: ReplicaSet,
    members: tuple[Member, ...],
    now: datetime,
    events: list[object],
    ended: list[Deployment],
) -> ReplicaSet:
    """Ends what its node has given up. A wanted revision that fails is taken back, or tried again later."""
    for each in members:
        if each.failed:
            dead = each.deployment
            ended.append(await _end(work, dead, events))
            if dead.template_revision == replica_set.revision and replica_set.deleted_at is None:
                replica_set = replica_set.fail_once(f"{dead.deployment_id}: {dead.observed.error_message}", now)
    why = why_to_take_back(replica_set, now)
    return replica_set.take_back(why, now) if why else replica_set


async def _end(work: Work, deployment: Deployment, events: list[object]) -> Deployment:
    # Locked and read again: its node may just have said something.
    after, told = await stopped(work, await work.deployments.get(deployment.deployment_id, SYSTEM, lock=True))
    events += told
    return after


def _seen(replica_set: ReplicaSet, step: Step, refusal: str, now: datetime) -> ReplicaSet:
    """The set with how it stands; a revision that runs completely is stable from then on."""
    before = replica_set.standing
    if step.complete:
        # That a rollout was taken back stays to be read; that replicas failed is over once all run.
        healed = replace(
            before, failures=0, next_attempt_at=None, last_failure="" if before.failures else before.last_failure
        )
        replica_set = replace(replica_set, stable_revision=replica_set.revision, standing=healed)
    elif step.updated > before.updated or before.status is SetStatus.READY or before.progressed_at is None:
        replica_set = replace(replica_set, standing=replace(before, progressed_at=now))
    status, reason = status_of(replica_set, step, refusal, now)
    standing: Standing = replace(
        replica_set.standing, status=status, reason=reason, ready=step.ready, updated=step.updated, active=step.active
    )
    return replace(replica_set, standing=standing)


def _is_news(before: ReplicaSet, after: ReplicaSet) -> bool:
    return (before.standing.status, before.revision) != (after.standing.status, after.revision)
