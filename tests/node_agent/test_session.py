"""What the agent and the controller say to each other, and what holds when they cannot."""

import asyncio
import contextlib
import time
from collections.abc import Callable

import grpc
import httpx
from aiops.nodes.v1 import node_session_service_pb2 as pb

from tests.fakes.black_hole import black_hole
from tests.fakes.controller import FakeController
from tests.fixtures.node_agent import AgentProcess

Workload = Callable[..., pb.WorkloadSpec]


async def test_a_wanted_model_is_fetched_started_served_and_ended(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.want(workload())
    running = await controller.until_status("dep-1", "running")
    states = [pb.WorkloadStatus.State.Name(each.state) for each in controller.statuses]
    assert [*dict.fromkeys(states)] == ["downloading", "extracting", "starting", "running"]
    assert [each.event for each in controller.statuses if each.event] == ["started"]
    assert (running.progress, running.engine, running.runtime) == (100, "transformers", "process")
    assert (running.health, running.facts.inference_path) == ("healthy", "/v1/chat/completions")
    assert {each.path for each in running.facts.unsupported_fields} >= {"n", "logprobs"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.port}") as client:
        answer = await client.post("/v1/chat/completions", json={"model": "demo", "messages": []})
    assert answer.json()["choices"][0]["message"]["content"] == "I am demo"

    controller.want(workload(goal=pb.WorkloadSpec.end))
    stopped = await controller.until_status("dep-1", "stopped")
    assert (stopped.event, stopped.container_id) == ("stopped", running.container_id)
    assert not agent.engines()
    assert await agent.end() == 0


async def test_hello_and_heartbeats_tell_of_the_machine_and_of_what_runs(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    await agent.start()
    await controller.until(lambda it: it.hellos)
    hello = controller.hellos[0]
    assert (hello.node_id, [*hello.runtimes], [*hello.engines]) == ("node-1", ["process"], ["transformers"])
    assert hello.inventory.cpu_cores > 0
    assert hello.inventory.ram_total > hello.inventory.ram_free > 0
    assert hello.inventory.disk_total > 0
    assert hello.boot_id
    controller.want(workload())
    running = await controller.until_status("dep-1", "running")

    def measured() -> list[pb.Heartbeat]:
        beats = [each.heartbeat for each in controller.received if each.WhichOneof("message") == "heartbeat"]
        return [each for each in beats if any(it.memory_mb and it.status == "running" for it in each.containers)]

    await controller.until(lambda _: measured())
    beat = measured()[-1]
    assert (beat.session_epoch, beat.applied_revision, beat.metrics.node_id) == (1, 2, "node-1")
    container = beat.containers[0]
    assert (container.workload_id, container.port, container.status) == ("dep-1", running.port, "running")
    assert str(container.pid) == container.container_id == running.container_id

    def cached() -> list[list[str]]:
        beats = [each.heartbeat for each in controller.received if each.WhichOneof("message") == "heartbeat"]
        return [list(each.cached.digests) for each in beats if each.HasField("cached")]

    await controller.until(lambda _: any(cached()))
    told = cached()
    assert [len(each) for each in told[-1]] == [64]
    assert len(told) <= 2, "what is on the disk is told once, and again when it changes"


async def test_a_change_that_comes_twice_or_late_does_nothing(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.want(workload())
    running = await controller.until_status("dep-1", "running")
    controller.send(desired_state=pb.DesiredState(revision=2, base_revision=1, workloads=[workload()]))
    late = workload(goal=pb.WorkloadSpec.end)
    controller.send(desired_state=pb.DesiredState(revision=1, base_revision=0, workloads=[late]))
    controller.want(workload("dep-2"))
    await controller.until_status("dep-2", "running")
    assert [each.pid for each in agent.engines() if each.pid == int(running.container_id)]
    assert not [each for each in controller.statuses if each.state == pb.WorkloadStatus.stopped]
    accepted = [each.command_ack.request_id for each in controller.received if each.HasField("command_ack")]
    assert accepted == ["request-dep-1", "request-dep-2"]


async def test_a_gap_in_the_changes_asks_for_the_whole_state(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.desired = pb.DesiredState(revision=7, snapshot=True, workloads=[workload()])
    controller.send(desired_state=pb.DesiredState(revision=7, base_revision=6, workloads=[workload("dep-9")]))
    asked = await controller.until_received("snapshot_request")
    assert asked.snapshot_request.last_revision == 1
    await controller.until_status("dep-1", "running")
    assert not [each for each in controller.statuses if each.workload_id == "dep-9"]


async def test_a_lost_change_is_noticed_with_the_next_heartbeat(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.desired = pb.DesiredState(revision=2, snapshot=True, workloads=[workload()])
    await controller.until_status("dep-1", "running")


async def test_what_a_snapshot_does_not_name_ends(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.want(workload(), workload("dep-2"))
    await controller.until_status("dep-1", "running")
    await controller.until_status("dep-2", "running")
    controller.desired = pb.DesiredState(revision=3, snapshot=True, workloads=[workload("dep-2")])
    controller.send(desired_state=controller.desired)
    await controller.until_status("dep-1", "stopped")
    assert len(agent.engines()) == 1


async def test_a_workload_to_end_that_does_not_run_here_is_said_to_be_stopped(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    controller.desired.workloads.append(workload(goal=pb.WorkloadSpec.end))
    await agent.start()
    await controller.until_status("dep-1", "stopped")


async def test_a_controller_that_restarts_finds_everything_running_and_gets_what_it_missed(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.want(workload())
    running = await controller.until_status("dep-1", "running")
    await controller.stop()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.port}") as client:
        assert (await client.get("/health")).status_code == 200
        answer = await client.post("/v1/chat/completions", json={"model": "demo", "messages": []})
        assert answer.status_code == 200
        with contextlib.suppress(httpx.RemoteProtocolError):
            await client.post("/exit", content=b"7")
    await controller.start()
    death = await controller.until_event("died")
    assert (death.exit_code, death.container_id) == (7, running.container_id)
    await controller.until_status("dep-1", "running", after=controller.statuses.index(death))
    assert controller.hellos[-1].last_revision == 2


async def test_statuses_that_are_not_acknowledged_are_sent_again(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    controller.acknowledge = False
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.want(workload())
    await controller.until_status("dep-1", "running")
    before = [each.sequence for each in controller.statuses]
    assert before == sorted(before)
    controller.acknowledge = True
    await controller.restart()
    await controller.until(lambda it: len(it.hellos) == 2 and len(it.statuses) >= 2 * len(before))
    assert [each.sequence for each in controller.statuses[len(before) :]][: len(before)] == before


async def test_a_controller_that_is_gone_without_a_word_is_noticed_within_five_seconds(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    async with black_hole(controller.address) as relay:
        agent.environment["AIOPS_CONTROLLER_MESH"] = relay.address
        await agent.start()
        await controller.until(lambda it: it.hellos)
        controller.want(workload())
        running = await controller.until_status("dep-1", "running")
        relay.freeze()
        frozen_at = time.monotonic()
        async with asyncio.timeout(5):
            await agent.until_logged("session with")
        assert time.monotonic() - frozen_at < 5
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.port}") as client:
            assert (await client.get("/health")).status_code == 200
        relay.thaw()
        await controller.until(lambda it: len(it.hellos) >= 2)
    assert str(controller.hellos[-1].workloads[0].container_id) == running.container_id


async def test_a_controller_that_answers_no_heartbeat_is_left_after_the_lease(
    agent: AgentProcess, controller: FakeController
) -> None:
    controller.answer_heartbeats = False
    await agent.start()
    await controller.until(lambda it: len(it.hellos) >= 2)
    assert "no heartbeat was acknowledged" in agent.logged()


async def test_a_session_that_is_refused_is_tried_again_and_nothing_stops(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.want(workload())
    running = await controller.until_status("dep-1", "running")
    controller.refusal = grpc.StatusCode.PERMISSION_DENIED
    await controller.restart()
    await controller.until(lambda it: it.refused)
    assert [each.pid for each in agent.engines()] == [int(running.container_id)]
    controller.refusal = None
    await controller.until(lambda it: len(it.hellos) >= 2, wait_s=40)


async def test_the_log_is_answered_by_offset_and_by_last_lines(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.want(workload())
    await controller.until_status("dep-1", "running")
    first = await controller.read_log("dep-1", 0, 10)
    assert (first.content, first.offset, first.next_offset, first.end) == (b"engine sta", 0, 10, False)
    rest = await controller.read_log("dep-1", 10, 100_000)
    assert rest.content.startswith(b"rts as demo on port")
    assert rest.end
    last = await controller.read_log("dep-1", -1, 100_000)
    assert last.content.count(b"\n") == 1
    assert (await controller.read_log("dep-1", last.offset, len(last.content))).content == last.content
    nothing = await controller.read_log("../node.key", 0, 100)
    assert (nothing.content, nothing.end) == (b"", True)
    assert "no log" in nothing.error
