"""Faults of the database and of the broker."""

from collections.abc import Sequence
from functools import partial

import pytest

from stack.processes import Process, descendants
from tests.robustness.conftest import Scenarios
from tests.robustness.scenario import Load

pytestmark = pytest.mark.timeout(180)

RECOVERY_S = 5.0


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


async def test_f20_a_broker_that_appends_and_seems_not_to_makes_no_second_effect(scenarios: Scenarios) -> None:
    async with scenarios("f20") as now:
        await now.start(now.cluster.controller, AIOPS_FAILPOINTS="relay.published=error:unavailable%40")

        def repeated() -> bool:
            heard = [each.event_id for each in now.fresh()]
            return len(set(heard)) < len(heard)

        await now.until("events to be heard twice", repeated, 4 * RECOVERY_S)
        await now.go_on(2)
