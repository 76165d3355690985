"""Faults of the database and of the broker."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from stack.processes import Process, descendants
from tests.robustness.conftest import Scenarios
from tests.robustness.database import slow_way
from tests.robustness.scenario import Load
from tests.robustness.standby import SYNCHRONOUS, standby

pytestmark = pytest.mark.timeout(300)

RECOVERY_S = 5.0
# What every answer of a slow database takes longer, and who wants to read what is locked.
SLOW, CROWD = timedelta(seconds=1), 40


async def test_f19_without_the_broker_writes_go_on_and_their_events_follow(scenarios: Scenarios) -> None:
    async with scenarios("f19", load=Load(importers=1)) as now:
        store = now.cluster.machines["store"]
        everyone = [machine.address for name, machine in now.cluster.machines.items() if name != "store"]
        with store.silent_to(*everyone):
            before = len(now.acknowledged())
            await now.go_on(12)
            await now.until("writes", lambda: len(now.acknowledged()) >= before + 5, 2 * RECOVERY_S)


async def test_f26_a_database_that_is_killed_under_load_loses_nothing(scenarios: Scenarios) -> None:
    async with scenarios("f26", load=Load(importers=1)) as now:
        postgres = now.cluster.members["postgres"]
        for _ in range(2):
            await now.go_on(2)
            backends = descendants(postgres.pid)
            postgres.kill()
            await now.until("its backends to end", partial(all_ended, backends), RECOVERY_S)
            await now.start(postgres)
            await now.until("a write to succeed", now.one_more_acknowledged(), RECOVERY_S)


def all_ended(processes: Sequence[Process]) -> bool:
    """Whether none of them lives."""
    return not any(process.alive for process in processes)


async def test_f27_a_standby_that_takes_over_has_all_that_was_acknowledged(scenarios: Scenarios) -> None:
    async with scenarios("f27", load=Load(importers=1)) as now, AsyncExitStack() as stack:
        follower = await asyncio.to_thread(stack.enter_context, standby(now.cluster))
        now.cluster.postgres.psql(SYNCHRONOUS)
        await now.until("it to be in step", follower.is_in_step, 2 * RECOVERY_S)
        await now.go_on(2)
        first = now.cluster.members["postgres"]
        backends = descendants(first.pid)
        first.kill()
        await now.until("its backends to end", partial(all_ended, backends), RECOVERY_S)
        await asyncio.to_thread(follower.take_over)
        await now.until("a write to succeed", now.one_more_acknowledged(), 2 * RECOVERY_S)
        await now.go_on(2)
        await asyncio.to_thread(follower.give_back)
        await now.start(first)
        await now.until("a write to succeed", now.one_more_acknowledged(), 2 * RECOVERY_S)


async def test_f28_a_database_that_is_slow_or_does_not_answer_costs_calls_and_nothing_else(
    scenarios: Scenarios, tmp_path: Path
) -> None:
    async with scenarios("f28", load=Load(deployers=3)) as now, slow_way(now.cluster.postgres, tmp_path) as way:
        controller = now.cluster.controller
        await now.start(controller, AIOPS_DATABASE_URL=way.url)
        way.delay = SLOW
        await now.go_on(5)
        assert controller.healthy()
        way.delay = timedelta()
        async with now.crowd_behind_a_lock(CROWD):
            await now.go_on(4)
            assert controller.healthy()
        await now.until("a write to succeed", now.one_more_acknowledged(), 2 * RECOVERY_S)


async def test_f20_a_broker_that_appends_and_seems_not_to_makes_no_second_effect(scenarios: Scenarios) -> None:
    async with scenarios("f20") as now:
        await now.start(now.cluster.controller, AIOPS_FAILPOINTS="relay.published=error:unavailable%40")

        def repeated() -> bool:
            heard = [each.event_id for each in now.fresh()]
            return len(set(heard)) < len(heard)

        await now.until("events to be heard twice", repeated, 4 * RECOVERY_S)
        await now.go_on(2)
