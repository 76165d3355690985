"""Faults of nodes and of the link between a node and its controller."""

import pytest

from tests.robustness.cluster import HEARTBEAT_S, LEASE_S
from tests.robustness.conftest import Scenarios
from tests.robustness.scenario import Expectations

pytestmark = pytest.mark.timeout(180)

# Keepalive notices a dead peer within so many seconds (ADR 4); a lease runs out so long after the node's last word.
KEEPALIVE_S = 4.0
OFFLINE_S = LEASE_S + HEARTBEAT_S + 3.0
RETURN_S = 20.0
# What was on its way to a machine when that stood still may be lost; its client is told.
CAUGHT = 6


async def test_f1_a_crash_loop_of_an_agent_leaves_its_workloads_alone(scenarios: Scenarios) -> None:
    async with scenarios("f1") as now:
        agent = now.choose(now.cluster.nodes)
        engines = await now.engines(agent.name)
        assert len(engines) == 1
        for _ in range(5):
            agent.kill()
            await now.start(agent)
        await now.until("the node to be back", lambda: now.node_is(agent.name, "online"), 2 * HEARTBEAT_S + 3)
        assert await now.engines(agent.name) == engines


async def test_f2_a_paused_agent_loses_its_lease_and_is_merged_when_it_goes_on(scenarios: Scenarios) -> None:
    async with scenarios("f2", expect=Expectations(failed_chats=CAUGHT)) as now:
        agent = now.choose(now.cluster.nodes)
        with agent.frozen():
            await now.until("the node to be offline", lambda: now.node_is(agent.name, "offline"), OFFLINE_S)
            await now.go_on(2 * LEASE_S)
        await now.until("the node to be back", lambda: now.node_is(agent.name, "online"), RETURN_S)


async def test_f3_a_node_cut_off_both_ways_keeps_serving(scenarios: Scenarios) -> None:
    async with scenarios("f3") as now:
        agent = now.choose(now.cluster.nodes)
        machine = now.cluster.machines[agent.name]
        engines = await now.engines(agent.name)
        peers = [now.cluster.machines[name].address for name in ("ctl-1", "ctl-2")]
        with machine.silent_to(*peers, now.cluster.controller_address):
            noticed = await now.until("the agent to notice", lambda: not agent.healthy(), KEEPALIVE_S + 2)
            await now.until("the node to be offline", lambda: now.node_is(agent.name, "offline"), OFFLINE_S)
            await now.go_on(2 * LEASE_S)
            assert set(await now.engines(agent.name)) >= set(engines)
        assert noticed <= KEEPALIVE_S + 1
        await now.until("the node to be back", lambda: now.node_is(agent.name, "online"), RETURN_S)
