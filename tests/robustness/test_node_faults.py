"""Faults of nodes and of the link between a node and its controller."""

import errno
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.fakes.nvml.build import build_nvml
from tests.robustness.cluster import HEARTBEAT_S, LEASE_S
from tests.robustness.conftest import Scenarios
from tests.robustness.final import question
from tests.robustness.scenario import Expectations, Load
from tests.robustness.traffic import WORK
from tests.robustness.weather import Weather

pytestmark = pytest.mark.timeout(300)

# Keepalive notices a dead peer within so many seconds (ADR 4); a lease runs out so long after the node's last word.
KEEPALIVE_S = 4.0
OFFLINE_S = LEASE_S + HEARTBEAT_S + 8.0
RETURN_S = 40.0
# What was on its way to a machine when that stood still may be lost; its client is told.
CAUGHT = 6
FLAPS = 6
WEATHER = Weather(delay_ms=20, jitter_ms=60, twice=0.1)
LOST = 0.02
START_S, FAIL_S = 40.0, 40.0
LIMIT_MB = 64
CGROUPS = Path("/sys/fs/cgroup")


@contextmanager
def memory_limit(pid: int, limit_mb: int) -> Iterator[None]:
    """A memory cgroup around one process, of whichever version this machine has."""
    second = (CGROUPS / "cgroup.controllers").exists()
    group = (CGROUPS if second else CGROUPS / "memory") / f"aiops-robustness-{pid}"
    limit, swap = ("memory.max", "memory.swap.max") if second else ("memory.limit_in_bytes", "memory.swappiness")
    group.mkdir()
    try:
        (group / limit).write_text(str(limit_mb * 1024 * 1024))
        (group / swap).write_text("0")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        _remove(group, pid)


def _remove(group: Path, pid: int) -> None:
    """Puts the process back where it was if it still lives, and waits until the kernel has let go of the group."""
    deadline = time.monotonic() + START_S
    with suppress(OSError):
        (group.parent / "cgroup.procs").write_text(str(pid))
    while True:
        try:
            group.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


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
        with machine.silent_to(*now.cluster.controllers):
            noticed = await now.until("the agent to notice", lambda: not agent.healthy(), KEEPALIVE_S + 2)
            await now.until("the node to be offline", lambda: now.node_is(agent.name, "offline"), OFFLINE_S)
            await now.go_on(2 * LEASE_S)
            assert set(await now.engines(agent.name)) >= set(engines)
        assert noticed <= KEEPALIVE_S + 1
        await now.until("the node to be back", lambda: now.node_is(agent.name, "online"), RETURN_S)


async def test_f4_a_node_that_cannot_answer_and_one_that_cannot_hear_are_both_lost_and_merged(
    scenarios: Scenarios,
) -> None:
    async with scenarios("f4") as now:
        mute, deaf = now.chance.sample(now.cluster.nodes, 2)
        peers = now.cluster.controllers
        with (
            now.cluster.machines[mute.name].silent_to(*peers, ways=["OUTPUT"]),
            now.cluster.machines[deaf.name].silent_to(*peers, ways=["INPUT"]),
        ):
            for agent in (mute, deaf):
                await now.until("the node to be offline", partial(now.node_is, agent.name, "offline"), OFFLINE_S)
            await now.go_on(LEASE_S)
        for agent in (mute, deaf):
            await now.until("the node to be back", partial(now.node_is, agent.name, "online"), RETURN_S)


async def test_f5_a_flapping_link_makes_neither_a_storm_of_sessions_nor_of_events(scenarios: Scenarios) -> None:
    async with scenarios("f5", expect=Expectations(failed_chats=CAUGHT)) as now:
        agent = now.choose(now.cluster.nodes)
        before, machine = now.node_row(agent.name), now.cluster.machines[agent.name]
        for _ in range(FLAPS):
            with machine.unplugged():
                await now.go_on(1)
            await now.go_on(1)
        await now.until("the node to be back", lambda: now.node_is(agent.name, "online"), RETURN_S)
        assert now.node_row(agent.name)["session_epoch"] - before["session_epoch"] <= FLAPS
        assert len(now.told("system.node.offline", before["node_id"])) <= 2


async def test_packets_that_come_late_out_of_order_twice_or_not_at_all_end_no_session(scenarios: Scenarios) -> None:
    async with scenarios("weather", load=Load(importers=1)) as now, AsyncExitStack() as bad:
        agent = now.choose(now.cluster.nodes)
        sessions = now.sessions()
        for name in (agent.name, "ctl-1", "edge"):
            bad.enter_context(now.cluster.machines[name].in_bad_weather(WEATHER))
        bad.enter_context(now.cluster.machines[agent.name].losing(LOST))
        await now.go_on(2 * LEASE_S)
        assert now.sessions() == sessions
        assert now.told("system.node.offline") == []


async def test_f8_gpus_that_hang_or_are_lost_take_nothing_with_them(scenarios: Scenarios, tmp_path: Path) -> None:
    async with scenarios("f8") as now:
        agent, script = now.choose(now.cluster.nodes), tmp_path / "nvml.txt"
        script.write_text("")
        engines = await now.engines(agent.name)
        await now.start(agent, LD_LIBRARY_PATH=str(build_nvml(tmp_path)), FAKE_NVML=str(script))

        def shown(*words: str) -> bool:
            errors = [str(each.get("error") or "") for each in now.node_row(agent.name)["gpu_devices"]]
            return len(errors) == len(words) and all(map(contains, errors, words))

        await now.until("two GPUs that work", partial(shown, "", ""), START_S)
        held = await now.deploy(WORK, agent.name)
        await now.until("it to run on a GPU", partial(now.has_status, held, "running"), START_S)
        script.write_text("hang 0 1\nfail 1 15\n")
        await now.until("one that hangs, one that is lost", partial(shown, "not answer", "lost"), START_S)
        session = now.node_row(agent.name)["session_epoch"]
        refusal = await now.rest.post("/deployments", json={"modelId": WORK, "nodeId": await now.node_id(agent.name)})
        assert "cannot be read" in refusal.text
        await now.go_on(LEASE_S + HEARTBEAT_S)
        assert now.node_row(agent.name)["session_epoch"] == session
        assert now.told("system.node.offline") == []
        assert set(await now.engines(agent.name)) >= set(engines)
        assert await now.has_status(held, "running")
        script.write_text("")
        await now.until("both to be well", partial(shown, "", ""), START_S)


def contains(text: str, word: str) -> bool:
    """Whether the text has the word; the empty one only the empty text."""
    return word in text if word else not text


async def test_f6_an_engine_that_runs_out_of_memory_is_recognised_and_started_again(scenarios: Scenarios) -> None:
    async with scenarios("f6") as now:
        deployment_id = await now.deploy("f6-grows")
        await now.until("it to run", partial(now.has_status, deployment_id, "running"), START_S)
        deployment = await now.deployment(deployment_id)
        with memory_limit(int(deployment["containerId"]), LIMIT_MB):
            for _ in range(2 * LIMIT_MB):
                answer = await now.rest.post(deployment["endpoint"], json=question("f6-grows"))
                if answer.status_code != 200:
                    break

        async def is_told() -> bool:
            return any(each["event"] == "oom" for each in now.told("system.node.containerEvent"))

        await now.until("the end for memory to be told", is_told, START_S)
        await now.until("it to run again", partial(now.has_status, deployment_id, "running"), START_S)
        assert (await now.deployment(deployment_id))["restarts"] == deployment["restarts"] + 1


async def test_f7_engines_that_end_or_are_never_ready_fail_in_time_and_hurt_nobody(scenarios: Scenarios) -> None:
    async with scenarios("f7") as now:
        ending, waiting = await now.deploy("f7-exits"), await now.deploy("f7-unready")
        for deployment_id in (ending, waiting):
            await now.until("it to fail", partial(now.has_status, deployment_id, "failed"), FAIL_S)
            assert (await now.deployment(deployment_id))["errorMessage"]
            await now.stop(deployment_id)
