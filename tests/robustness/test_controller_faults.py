"""Faults of the controller: it dies between two steps, its answers get lost, its transactions lose."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import httpx
import pytest

from stack.postgres import Postgres
from tests.robustness.cluster import LEASE_S, METRICS
from tests.robustness.conftest import Scenarios
from tests.robustness.history import Operation, of
from tests.robustness.member import Member
from tests.robustness.network import Machine
from tests.robustness.plants import planted
from tests.robustness.scenario import Load, Scenario
from tests.robustness.traffic import WORK

pytestmark = pytest.mark.timeout(300)

# Every place that a deployment's way through the controller passes.
STEPS = [
    *("deploy.booked", "deploy.placed", "deploy.committed", "report.stored", "report.committed"),
    *("commit.before", "commit.done", "session.opened", "session.told"),
    *("relay.claimed", "relay.published", "relay.marked"),
]
AGENT_STEPS = [
    *("agent.wanted", "agent.recorded", "launch.prepared", "launch.spawned", "launch.recorded", "launch.ready"),
    *("journal.written", "journal.replaced"),
]
STRIKE_S = 40.0
DRAIN_S = 15.0
# A third of all inserts lose, by a serialization failure or by a deadlock.
LOSING = """\\c aiops
CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF random() < 0.15 THEN RAISE EXCEPTION 'injected' USING ERRCODE = '40001'; END IF;
  IF random() < 0.15 THEN RAISE EXCEPTION 'injected' USING ERRCODE = '40P01'; END IF;
  RETURN NEW; END $$;
CREATE TRIGGER lose BEFORE INSERT ON deployments FOR EACH ROW EXECUTE FUNCTION lose();
"""
WINNING = "\\c aiops\nDROP TRIGGER lose ON deployments; DROP FUNCTION lose();\n"


async def test_f11_a_controller_that_dies_at_any_step_of_a_deploy_completes_it_once(scenarios: Scenarios) -> None:
    async with scenarios("f11-controller") as now:
        controller = now.cluster.controller
        controller.kill()
        for step in shuffled(now, STEPS):
            controller.spawn(AIOPS_FAILPOINTS=f"{step}=panic")
            await now.until(f"the controller to die at {step}", controller.is_gone, STRIKE_S)
            now.history.note("died", step=step)


async def test_f11_an_agent_that_dies_at_any_step_of_a_launch_runs_it_once(scenarios: Scenarios) -> None:
    async with scenarios("f11-agent", load=Load(deployers=4)) as now:
        for step in shuffled(now, AGENT_STEPS):
            agent = now.choose(now.cluster.nodes)
            agent.kill()
            agent.spawn(AIOPS_FAILPOINTS=f"{step}=panic")
            deployment_id = await now.try_deploy(WORK, agent.name)
            await now.until(f"{agent.name} to die at {step}", agent.is_gone, STRIKE_S)
            now.history.note("died", step=step, member=agent.name)
            await now.start(agent)
            if deployment_id:
                await now.stop(deployment_id)


async def test_f13_a_commit_whose_answer_is_lost_is_found_by_its_request_id(scenarios: Scenarios) -> None:
    async with scenarios("f13") as now:
        await now.start(now.cluster.controller, AIOPS_FAILPOINTS="commit.done=error:unavailable%20")
        await now.until("answers to be lost", lambda: len(lost_creates(now)) >= 2, 3 * STRIKE_S)


def lost_creates(now: Scenario) -> list[Operation]:
    """The creates whose outcome their clients do not know."""
    return [each for each in of(now.history.operations, "create") if each.result == "unknown"]


@contextmanager
def losing(postgres: Postgres) -> Iterator[None]:
    """Some inserts lose."""
    postgres.psql(LOSING)
    try:
        yield
    finally:
        postgres.psql(WINNING)


def shuffled(now: Scenario, steps: list[str]) -> list[str]:
    """The steps in an order of the seed's choice."""
    return now.chance.sample(steps, len(steps))


async def test_f10_a_platform_that_stands_still_for_longer_than_a_lease_evicts_nobody(scenarios: Scenarios) -> None:
    async with scenarios("f10") as now:
        with now.cluster.controller.frozen(), now.cluster.members["postgres"].frozen():
            await now.go_on(1.5 * LEASE_S)
        for name in now.cluster.node_names:
            await now.until("the node to be there", partial(now.node_is, name, "online"), STRIKE_S)
        await now.go_on(LEASE_S)
        assert now.told("system.node.offline") == []


async def test_f14_transactions_that_lose_are_repeated_and_leave_nothing_half_done(scenarios: Scenarios) -> None:
    async with scenarios("f14", load=Load(deployers=3)) as now:
        with losing(now.cluster.postgres):
            await now.go_on(4)
            await now.until("deployments to be made", lambda: len(of(now.acknowledged(), "create")) >= 3, STRIKE_S)


async def test_f15_a_controller_that_is_asked_to_end_drains_in_time(scenarios: Scenarios) -> None:
    async with scenarios("f15") as now:
        for _ in range(2):
            await now.go_on(2)
            began = time.monotonic()
            assert await asyncio.to_thread(now.cluster.controller.stop) == 0
            assert time.monotonic() - began < DRAIN_S
            await now.start(now.cluster.controller)
            await now.until("a write to succeed", now.one_more_acknowledged(), STRIKE_S)
    codes = {each.value.get("status", 0) for each in now.history.operations if each.result != "ok"}
    assert codes <= {0, 503, 504}


async def test_f16_configuration_that_envoy_refuses_leaves_the_last_good_one_in_force(scenarios: Scenarios) -> None:
    async with scenarios("f16") as now:
        gateway = now.cluster.members["gateway"]

        def is_counted() -> bool:
            found = re.findall(rb"^gateway_refusals_total\{.*\} (\d+)", metrics(gateway.machine), re.MULTILINE)
            return any(int(each) for each in found)

        await now.start(gateway, **planted(gateway, "invalid_configuration"))
        await now.until("the refusal to be counted", is_counted, STRIKE_S)
        await now.go_on(3)


async def test_f22_two_relays_at_once_keep_the_order_of_every_key(scenarios: Scenarios) -> None:
    async with scenarios("f22", load=Load(deployers=3, importers=1)) as now:
        await now.start(now.cluster.members["ctl-2"])
        await now.go_on(3)
        with now.cluster.members["broker"].frozen():
            await now.go_on(3)
        await now.go_on(3)


async def test_f12_a_paused_controller_has_no_say_when_another_has_taken_over(scenarios: Scenarios) -> None:
    async with scenarios("f12") as now:
        first, second = now.cluster.controller, now.cluster.members["ctl-2"]
        await now.start(second)
        before = now.sessions()
        with ExitStack() as moved:
            with first.frozen():
                for name in ("edge", *now.cluster.node_names):
                    now.cluster.lead(name, "ctl-2")
                    moved.enter_context(now.cluster.machines[name].refusing(now.cluster.machines["ctl-1"].address))
                await now.until("all to have moved", lambda: all_newer(now.sessions(), before), 2 * STRIKE_S)
                await now.until("a write to succeed", now.one_more_acknowledged(), STRIKE_S)
                await now.go_on(LEASE_S)
            await now.go_on(LEASE_S)
            await now.until("all to be with the second one", partial(all_with, now, second), STRIKE_S)


async def test_the_end_of_one_of_two_controllers_fails_no_chat_and_loses_no_deployment(scenarios: Scenarios) -> None:
    async with scenarios("two-controllers") as now:
        first, second = now.cluster.controller, now.cluster.members["ctl-2"]
        await now.start(second)
        await now.go_on(3)
        first.kill()
        # What an address with both behind it does once one of them does not answer.
        for name in ("edge", *now.cluster.node_names):
            now.cluster.lead(name, "ctl-2")
        await now.until("a write to succeed", now.one_more_acknowledged(), STRIKE_S)
        await now.until("all to be with the second one", partial(all_with, now, second), STRIKE_S)
        await now.go_on(3)


def all_newer(now: dict[str, int], before: dict[str, int]) -> bool:
    """Whether every node has a later session than it had."""
    return all(now[name] > before[name] for name in before)


def all_with(now: Scenario, controller: Member) -> bool:
    """Whether every node has a session with the controller, and counts as connected."""
    assert controller.machine is not None
    rows = [now.node_row(name) for name in now.cluster.node_names]
    holders = {row["session_holder"].rpartition(":")[0] for row in rows}
    return holders == {controller.machine.address} and all(row["websocket_connected"] for row in rows)


def metrics(machine: Machine | None) -> bytes:
    """What the gateway counts."""
    assert machine is not None
    return httpx.get(f"http://{machine.address}:{METRICS + 1}/metrics", timeout=2, trust_env=False).content
