"""Faults of the controller: it dies between two steps, its answers get lost, its transactions lose."""

import pytest

from tests.robustness.conftest import Scenarios
from tests.robustness.scenario import Load, Scenario

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
STRIKE_S = 20.0


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
            await now.until(f"{agent.name} to die at {step}", agent.is_gone, STRIKE_S)
            now.history.note("died", step=step, member=agent.name)
            await now.start(agent)


async def test_f13_a_commit_whose_answer_is_lost_is_found_by_its_request_id(scenarios: Scenarios) -> None:
    async with scenarios("f13") as now:
        await now.start(now.cluster.controller, AIOPS_FAILPOINTS="commit.done=error:unavailable%20")
        await now.go_on(12)
        now.cluster.controller.kill()
    lost = [each for each in now.history.operations if each.op == "create" and each.result == "unknown"]
    assert lost


def shuffled(now: Scenario, steps: list[str]) -> list[str]:
    """The steps in an order of the seed's choice."""
    return now.chance.sample(steps, len(steps))
