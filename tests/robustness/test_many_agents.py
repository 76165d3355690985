"""Two hundred agents that have lost their controller come back all at once."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from sqlalchemy import func, select

from benchmarks.fleet import Fleet, assemble
from benchmarks.fleet_controller import highest_memory_mb, running_controller
from controller.nodes.model import NodeStatus
from controller.nodes.store import nodes
from mesh.events.outbox import outbox
from mesh.identity import SYSTEM
from mesh.sql.database import Database
from tests.fakes.eventually import eventually

pytestmark = pytest.mark.timeout(240)

# On a busy machine an agent may have to come twice.
MOST_SESSIONS = 300
AGENTS, JOIN_S, NOTICE_S, BACK_S, MEMORY_MB = 200, 90.0, 20.0, 30.0, 350.0


@pytest_asyncio.fixture
async def fleet() -> AsyncIterator[Fleet]:
    """A controller of their own, with the leases that it has by default, and all agents in session."""
    with running_controller() as controller:
        async with AsyncExitStack() as stack:
            fleet = await assemble(controller, AGENTS, stack)
            try:
                await eventually(lambda: all_open(fleet), JOIN_S)
                yield fleet
            finally:
                for task in fleet.tasks:
                    task.cancel()
                await asyncio.gather(*fleet.tasks, return_exceptions=True)


async def test_f9_two_hundred_agents_that_come_at_once_are_back_soon_and_nobody_is_taken_away(fleet: Fleet) -> None:
    fleet.controller.kill()

    async def all_notice() -> bool:
        return not any(agent.open for agent in fleet.agents)

    await eventually(all_notice, NOTICE_S)
    sessions = sum(agent.sessions for agent in fleet.agents)
    healed, began = asyncio.Event(), time.monotonic()
    fleet.controller.start()
    memory = asyncio.create_task(highest_memory_mb(fleet.controller, healed))
    try:
        await eventually(lambda: all_open(fleet), BACK_S + NOTICE_S)
        took = time.monotonic() - began
    finally:
        healed.set()
    assert took <= BACK_S
    assert await memory <= MEMORY_MB
    assert sum(agent.sessions for agent in fleet.agents) - sessions <= MOST_SESSIONS
    database = Database(fleet.controller.database)
    async with database.reading(SYSTEM) as connection:
        lost = select(func.count()).where(outbox.c.type == "system.node.offline")
        away = select(func.count()).where(nodes.c.status != NodeStatus.ONLINE.value)
        assert (await connection.execute(lost)).scalar_one() == 0
        assert (await connection.execute(away)).scalar_one() == 0
    await database.dispose()


async def all_open(fleet: Fleet) -> bool:
    """Whether every agent has a session whose heartbeat was answered."""
    return all(agent.open for agent in fleet.agents)
