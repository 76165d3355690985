"""The loop that takes rollouts as far as what is seen of them allows."""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from controller.deployments.serving import Replica
from controller.hints import Hints
from controller.replica_sets.model import ReplicaSetNotFoundError, ReplicaSetStatusChanged
from controller.rollouts.decide import apply, decide
from controller.rollouts.model import Action, Rollout, RolloutId, Sight
from controller.rollouts.service import UnitOfWork, Work, keep
from controller.routing.model import Provider, Route, RouteNotFoundError, Target
from mesh.errors import ConflictError
from mesh.identity import SYSTEM
from mesh.loops import Wake, attempt

log = logging.getLogger(__name__)
# While a rollout is on its way; without one, a hint or the slower look finds the next.
LOOK_EVERY, REST = timedelta(milliseconds=500), timedelta(seconds=2)


class RolloutReconciler:
    """Level-triggered over rows. Each step is one transaction under the rollout's lock: decision, weights and events.

    Another controller's step on the same rollout is passed over; one that dies leaves the last step whole.
    """

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints) -> None:
        self._unit_of_work, self._hints = unit_of_work, hints
        self._wake = Wake()
        self._pause = timedelta(0)

    @contextmanager
    def watching(self) -> Iterator["RolloutReconciler"]:
        """Looks at once when somebody changes a rollout, while the block lasts."""
        with self._hints.watching_rollouts() as self._wake:
            yield self

    async def step(self) -> timedelta:
        """Waits for a change or for time to pass, then looks."""
        await self._wake.wait(self._pause)
        self._pause = LOOK_EVERY if await self.look() else REST
        return timedelta(0)

    async def look(self) -> int:
        """Takes every rollout one step, where there is one to take; answers how many are on their way."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            found = await work.rollouts.unsettled()
            replicas = await work.deployments.replicas() if found else ()
        for rollout in found:
            error = await attempt(self._settle(rollout.rollout_id, replicas))
            if error is not None and not isinstance(error, ConflictError):
                log.error("rollout %s could not be looked at: %s", rollout.rollout_id, error)
        return len(found)

    async def _settle(self, rollout_id: RolloutId, replicas: Sequence[Replica]) -> None:
        async with self._unit_of_work(SYSTEM) as work:
            before = await work.rollouts.claim(rollout_id)
            if before is None:
                return
            now = await work.nodes.now()
            sight = await _sight(work, before, replicas, now)
            verdict = decide(before, sight, now)
            after, decision = apply(before, verdict, sight, now)
            if decision is None:
                if verdict.reason != before.reason:
                    await work.rollouts.save(replace(before, reason=verdict.reason))
                    await work.commit()
                return
            events = await keep(work, after, decision, now)
            if decision.action is Action.SCALE_DOWN:
                events += await _scale_down(work, after, now)
            await work.commit(*events)
        log.info("rollout %s: %s, %s", rollout_id, decision.action.value, decision.reason)
        self._hints.routes_changed()
        self._hints.sets_changed()


async def _sight(work: Work, rollout: Rollout, replicas: Sequence[Replica], now: datetime) -> Sight:
    try:
        route = await work.routes.get(rollout.route_id, SYSTEM)
    except RouteNotFoundError:
        return Sight(lost="its route is gone")
    if route.deleted_at is not None:
        return Sight(lost="its route was deleted")
    seen, live = await work.evidence.sight(rollout, now), _live(route, replicas)
    return replace(
        seen,
        stable=replace(seen.stable, live=rollout.spec.stable in live),
        candidate=replace(seen.candidate, live=rollout.spec.candidate in live),
    )


def _live(route: Route, replicas: Sequence[Replica]) -> Collection[str]:
    """The targets that there is somebody to answer for."""
    mine = [replica for replica in replicas if replica.org_id == route.org_id]
    return {
        target.name
        for target in route.wish.targets
        if target.provider is not Provider.INTERNAL or any(_is_of(replica, target) for replica in mine)
    }


def _is_of(replica: Replica, target: Target) -> bool:
    return (
        replica.model_name == target.model
        and target.deployment_id in ("", replica.deployment_id)
        and target.replica_set_id in ("", replica.member_of)
    )


async def _scale_down(work: Work, rollout: Rollout, now: datetime) -> list[object]:
    try:
        before = await work.replica_sets.get(rollout.spec.replica_set, SYSTEM, lock=True)
    except ReplicaSetNotFoundError:
        return []
    after = before.scale(0, now)
    if after is before or before.deleted_at is not None:
        return []
    await work.replica_sets.save(after)
    return [ReplicaSetStatusChanged(after, now)]
