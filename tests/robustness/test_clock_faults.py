"""Faults of time: wall clocks that jump, and machines that stand still."""

from functools import partial

import pytest

from tests.robustness.cluster import LEASE_S
from tests.robustness.conftest import Scenarios
from tests.robustness.distortion import distortion
from tests.robustness.plants import planted
from tests.robustness.scenario import Expectations

pytestmark = pytest.mark.timeout(300)

JUMPS_S = (300.0, -300.0, 0.0)
PAUSE_S, RETURN_S = 15.0, 40.0
CAUGHT = 8


async def test_f32_wall_clocks_that_jump_end_no_session_and_no_lease(scenarios: Scenarios) -> None:
    async with scenarios("f32") as now:
        agent, controller = now.choose(now.cluster.nodes), now.cluster.controller
        twisted = [distortion(now.cluster.directory, member.name) for member in (agent, controller)]
        for member, each in zip((agent, controller), twisted, strict=True):
            await now.start(member, **planted(member, "wall_clock", **each.environment))
        await now.until("all sessions", lambda: all(each.healthy() for each in now.cluster.nodes), RETURN_S)
        sessions = [now.node_row(name)["session_epoch"] for name in now.cluster.node_names]
        for jump_s in JUMPS_S:
            for each in twisted:
                each.set(wall_s=jump_s)
                await now.go_on(LEASE_S / 2)
        assert [now.node_row(name)["session_epoch"] for name in now.cluster.node_names] == sessions
        assert now.told("system.node.offline") == []


async def test_f33_a_machine_that_was_paused_for_long_is_merged(scenarios: Scenarios) -> None:
    async with scenarios("f33", expect=Expectations(failed_chats=CAUGHT, chat_pause_s=8.0)) as now:
        agent = now.choose(now.cluster.nodes)
        with agent.frozen():
            await now.go_on(PAUSE_S)
        await now.until("the node to be back", lambda: now.node_is(agent.name, "online"), RETURN_S)


async def test_f33_a_controller_that_was_paused_for_long_takes_nobody_away(scenarios: Scenarios) -> None:
    async with scenarios("f33-controller") as now:
        with now.cluster.controller.frozen():
            await now.go_on(1.5 * LEASE_S)
        for name in now.cluster.node_names:
            await now.until("the node to be there", partial(now.node_is, name, "online"), RETURN_S)
        await now.go_on(LEASE_S)
        assert now.told("system.node.offline") == []
