"""What happens to workloads when the agent ends, dies, comes back, or forgets."""

import os
import signal
from collections.abc import Callable

import psutil
import pytest
from aiops.nodes.v1 import node_session_service_pb2 as pb

from tests.fakes.controller import FakeController
from tests.fixtures.node_agent import AgentProcess

Workload = Callable[..., pb.WorkloadSpec]


@pytest.fixture
async def running(agent: AgentProcess, controller: FakeController, workload: Workload) -> pb.WorkloadStatus:
    """A workload that runs."""
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.want(workload())
    return await controller.until_status("dep-1", "running")


async def test_an_agent_killed_five_times_adopts_its_engine_and_restarts_nothing(
    agent: AgentProcess, controller: FakeController, running: pb.WorkloadStatus
) -> None:
    engine = psutil.Process(int(running.container_id))
    born = engine.create_time()
    for _ in range(5):
        await agent.end(signal.SIGKILL)
        sessions = len(controller.hellos)
        await agent.start()
        await controller.until(lambda it, before=sessions: len(it.hellos) > before)  # type: ignore[misc]
        [told] = controller.hellos[-1].workloads
        assert (told.container_id, told.port, told.epoch) == (running.container_id, running.port, 1)
        assert told.state == pb.WorkloadStatus.running
        assert told.facts == running.facts
    assert engine.is_running()
    assert engine.create_time() == born
    assert [each.pid for each in agent.engines()] == [engine.pid]
    await controller.until(lambda it: it.received[-1].heartbeat.containers)
    assert controller.received[-1].heartbeat.containers[0].restarts == 0


async def test_an_adopted_engine_is_still_watched(
    agent: AgentProcess, controller: FakeController, running: pb.WorkloadStatus
) -> None:
    await agent.end(signal.SIGKILL)
    await agent.start()
    await controller.until(lambda it: len(it.hellos) == 2)
    os.kill(int(running.container_id), signal.SIGKILL)
    death = await controller.until_event("died")
    assert (death.container_id, "unknown exit code" in death.error) == (running.container_id, True)
    again = await controller.until_status("dep-1", "running", after=controller.statuses.index(death))
    assert again.container_id != running.container_id


async def test_an_engine_that_died_while_no_agent_watched_is_started_again(
    agent: AgentProcess, controller: FakeController, running: pb.WorkloadStatus
) -> None:
    await agent.end(signal.SIGKILL)
    os.kill(int(running.container_id), signal.SIGKILL)
    seen = len(controller.statuses)
    await agent.start()
    again = await controller.until_status("dep-1", "running", after=seen)
    assert again.container_id != running.container_id


async def test_a_workload_placed_elsewhere_meanwhile_ends_on_return(
    agent: AgentProcess, controller: FakeController, running: pb.WorkloadStatus
) -> None:
    await agent.end(signal.SIGKILL)
    controller.desired = pb.DesiredState(revision=9, snapshot=True)
    controller.decisions = [
        pb.AdoptionDecision(
            workload_id="dep-1", epoch=1, decision=pb.AdoptionDecision.stop, reason="it was placed on another node"
        )
    ]
    await agent.start()
    stopped = await controller.until_status("dep-1", "stopped")
    assert stopped.container_id == running.container_id
    assert not agent.engines()


async def test_a_newer_epoch_replaces_the_process_and_an_older_one_is_refused(
    agent: AgentProcess, controller: FakeController, running: pb.WorkloadStatus, workload: Workload
) -> None:
    controller.want(workload(epoch=3))
    await controller.until(lambda it: any(each.epoch == 3 and each.health == "healthy" for each in it.statuses))
    [stopped] = [each for each in controller.statuses if each.event == "stopped"]
    assert (stopped.epoch, stopped.container_id) == (1, running.container_id)
    [engine] = agent.engines()
    controller.want(workload(epoch=2, goal=pb.WorkloadSpec.end, request_id="late"))

    def answers() -> list[pb.CommandAck]:
        return [each.command_ack for each in controller.received if each.command_ack.request_id.endswith("late")]

    await controller.until(lambda _: answers())
    assert answers()[0].status == pb.CommandAck.rejected
    assert "epoch 2" in answers()[0].reason
    assert [each.pid for each in agent.engines()] == [engine.pid]


async def test_sigterm_leaves_the_engines_running(
    agent: AgentProcess, controller: FakeController, running: pb.WorkloadStatus
) -> None:
    assert await agent.end() == 0
    assert [each.pid for each in agent.engines()] == [int(running.container_id)]


async def test_sigterm_ends_the_engines_where_they_are_not_to_be_kept(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    agent.environment["AIOPS_NODE_KEEP_WORKLOADS"] = "0"
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.want(workload(), workload("dep-2"))
    await controller.until_status("dep-1", "running")
    await controller.until_status("dep-2", "running")
    assert await agent.end() == 0
    assert not agent.engines()
    seen = len(controller.statuses)
    assert not [each for each in controller.statuses if each.state == pb.WorkloadStatus.stopped]
    await agent.start()
    await controller.until_status("dep-1", "running", after=seen)


async def test_a_truncated_journal_is_set_aside_and_the_engine_is_known_by_its_mark(
    agent: AgentProcess, controller: FakeController, running: pb.WorkloadStatus
) -> None:
    await agent.end(signal.SIGKILL)
    journal = agent.home / "journal.json"
    journal.write_bytes(journal.read_bytes()[:-20])
    seen = len(controller.statuses)
    await agent.start()
    again = await controller.until_status("dep-1", "running", after=seen)
    assert (again.container_id, again.port) == (running.container_id, running.port)
    assert again.facts == running.facts
    assert (agent.home / "journal.broken").exists()
    assert "runs as process" in agent.logged()


async def test_a_bit_flipped_in_the_journal_is_noticed(
    agent: AgentProcess, controller: FakeController, running: pb.WorkloadStatus
) -> None:
    await agent.end(signal.SIGKILL)
    journal = agent.home / "journal.json"
    content = bytearray(journal.read_bytes())
    content[len(content) // 2] ^= 1
    journal.write_bytes(content)
    await agent.start()
    await controller.until(lambda it: len(it.hellos) == 2)
    assert controller.hellos[-1].workloads[0].container_id == running.container_id
    assert (agent.home / "journal.broken").exists()


async def test_a_second_agent_in_the_same_home_says_who_is_there(
    agent: AgentProcess, controller: FakeController
) -> None:
    await agent.start()
    await controller.until(lambda it: it.hellos)
    code, output = await agent.run()
    assert code != 0
    assert agent.process is not None
    assert f"pid {agent.process.pid}" in output


async def test_nothing_is_started_before_the_controller_has_said_what_it_wants(
    agent: AgentProcess, controller: FakeController, running: pb.WorkloadStatus
) -> None:
    await agent.end(signal.SIGKILL)
    os.kill(int(running.container_id), signal.SIGKILL)
    await controller.stop()
    await agent.start()
    await agent.until_logged("ended while no agent was watching")
    await agent.until_logged("next try in")
    assert not agent.engines()


async def test_an_agent_paused_beyond_its_lease_does_not_act_on_what_waited_for_it(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    controller.lease_seconds = 2
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.want(workload())
    running = await controller.until_status("dep-1", "running")
    assert agent.process is not None
    agent.process.send_signal(signal.SIGSTOP)
    controller.want(workload("dep-2"))
    controller.desired = pb.DesiredState(revision=4, snapshot=True, workloads=[workload()])
    await controller.until(lambda it: it.closed)
    agent.process.send_signal(signal.SIGCONT)
    await controller.until(lambda it: it.received[-1].heartbeat.applied_revision == 4)
    assert not [each for each in controller.statuses if each.workload_id == "dep-2"]
    assert [each.pid for each in agent.engines()] == [int(running.container_id)]
