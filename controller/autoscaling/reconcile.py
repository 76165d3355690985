"""The loop that makes the number of replicas follow the load."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from controller.autoscaling.model import rated, traffic_of
from controller.autoscaling.service import UnitOfWork, Work
from controller.hints import Hints
from controller.replica_sets.model import ReplicaSet, ReplicaSetId, ReplicaSetNotFoundError, ReplicaSetScaled
from controller.replica_sets.scaling import Autoscaling, ScalingState, Signals, decide
from mesh.errors import ConflictError
from mesh.identity import SYSTEM
from mesh.loops import Wake
from mesh.sql.database import retry_conflicts

log = logging.getLogger(__name__)
LOOK_EVERY = timedelta(seconds=1)


class Autoscaler:
    """Level-triggered over rows, each decision under the set's lock: safe late, twice, and in several controllers.

    All that a decision needs is in the database: whichever controller looks next goes on where the last one ended.
    """

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints) -> None:
        self._unit_of_work, self._hints = unit_of_work, hints
        self._wake = Wake()

    @contextmanager
    def watching(self) -> Iterator["Autoscaler"]:
        """Looks at once when requests wait for a model that sleeps, while the block lasts."""
        with self._hints.watching_loads() as self._wake:
            yield self

    async def step(self) -> timedelta:
        """Waits for a change or for time to pass, then looks."""
        await self._wake.wait(LOOK_EVERY)
        await self.look()
        return timedelta(0)

    async def look(self) -> None:
        """Decides for every set whose number of replicas follows the load."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            ids = await work.replica_sets.autoscaled()
        for set_id in ids:
            try:
                changed = await retry_conflicts(partial(self._follow, set_id))
            except (ConflictError, ReplicaSetNotFoundError):
                continue
            if changed:
                self._hints.sets_changed()

    async def _follow(self, set_id: ReplicaSetId) -> bool:
        async with self._unit_of_work(SYSTEM) as work:
            before = await work.replica_sets.get(set_id, SYSTEM, lock=True)
            asked = before.autoscaling
            if asked is None or before.deleted_at is not None:
                return False
            now = await work.nodes.now()
            state, seen = await _look_at(work, before, asked, now)
            after = before.follow(decide(asked, state, seen, before.replicas, now), now)
            if after == before:
                return False
            await work.replica_sets.save(after)
            scaled = after.replicas != before.replicas
            await work.commit(*([ReplicaSetScaled(after, now)] if scaled else []))
        if scaled:
            log.info("%s: %d replicas, then %d: %s", set_id, before.replicas, after.replicas, after.scaling.scaled_why)
        return scaled


async def _look_at(
    work: Work, replica_set: ReplicaSet, asked: Autoscaling, now: datetime
) -> tuple[ScalingState, Signals]:
    traffic = traffic_of(await work.loads.of(replica_set.replica_set_id))
    seen = Signals(traffic.in_flight, traffic.held, idle=traffic.idle)
    state = replica_set.scaling
    if not (asked.target_queue or asked.target_tokens_per_second):
        return state, seen
    members = (await work.replica_sets.members([replica_set.replica_set_id])).get(replica_set.replica_set_id, ())
    running = [each.deployment.deployment_id for each in members if each.well]
    engines = await work.loads.engines(running)
    tokens = rated(state.tokens, {name: load.generated_tokens for name, load in engines.items()}, running, now)
    if running and len(engines) == len(running):
        queued = sum(engines[name].waiting_requests for name in running)
        seen = replace(seen, queued=queued, tokens_per_second=sum(rate for _, _, rate in tokens.values()))
    return replace(state, tokens=tokens), seen
