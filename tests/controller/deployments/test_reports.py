"""What a node reports moves a deployment forward, however often and in whatever order it arrives."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiops.deployments.v1 import deployment_pb2
from aiops.deployments.v1 import deployment_service_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from controller.deployments.model import Deployment, DeploymentId, DeploymentStatus, InstanceId
from controller.deployments.observation import observe, remember_told, told
from controller.deployments.workload import Goal, HealthStatus, WorkloadReport, WorkloadState
from controller.models.model import ModelId
from controller.nodes.events import DeploymentProgressed
from controller.nodes.heartbeats import Beat
from controller.nodes.model import Container, Gauges, NodeId, SessionSupersededError
from mesh.identity import SYSTEM, OrgId, UserId
from tests.fixtures.registry import EDITOR, Rooms

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUNNING: dict[str, Any] = {
    "state": WorkloadState.RUNNING,
    "container_id": "pid-1",
    "engine": "transformers",
    "port": 40_001,
    "health": HealthStatus.HEALTHY,
    "inference_path": "/v1/chat/completions",
}


async def deployed(rooms: Rooms) -> deployment_pb2.Deployment:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    return await rooms.deploy(request_id="req-1")


async def test_how_far_an_image_is_and_why_it_pauses_is_told_in_words_until_it_runs(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    words = "image: 3.0 of 6.0 MB, 1 of 2 layers"
    seen = await rooms.report(deployment, state=WorkloadState.DOWNLOADING, progress=25, detail=words)
    assert (seen.progress, seen.phase_detail) == (25, words)
    assert [each["detail"] for each in await rooms.events("system.node.deploymentProgress")] == [words]
    seen = await rooms.report(deployment, state=WorkloadState.STARTING)
    assert seen.phase_detail == ""


async def test_a_deployment_goes_from_download_to_running_and_tells_of_it(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    for state, progress in [
        (WorkloadState.DOWNLOADING, 0),
        (WorkloadState.DOWNLOADING, 50),
        (WorkloadState.EXTRACTING, 0),
        (WorkloadState.STARTING, 0),
    ]:
        seen = await rooms.report(deployment, state=state, progress=progress)
        assert (seen.status, seen.phase) == (deployment_pb2.Deployment.deploying, state.value)
    seen = await rooms.report(deployment, **RUNNING)
    assert seen.status == deployment_pb2.Deployment.running
    assert (seen.phase, seen.progress, seen.port, seen.engine) == ("running", 100, 40_001, "transformers")
    assert (seen.container_id, seen.health_status) == ("pid-1", deployment_pb2.Deployment.healthy)
    assert seen.HasField("deployed_at")
    progress_events = await rooms.events("system.node.deploymentProgress")
    assert [(each["status"], each["progress"]) for each in progress_events] == [
        ("downloading", 0),
        ("downloading", 50),
        ("extracting", 0),
        ("starting", 0),
        ("running", 100),
    ]
    assert all(each["requestId"] == "req-1" and each["key"] == deployment.node_id for each in progress_events)
    (status,) = await rooms.events("system.deploymentStatus")
    assert (status["status"], status["endpoint"]) == ("running", deployment.endpoint)
    assert status["key"] == deployment.deployment_id


async def test_a_report_that_comes_again_or_late_changes_and_tells_nothing(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    seen = await rooms.report(deployment, **RUNNING)
    before = await rooms.events()
    for said in (
        RUNNING,
        {"state": WorkloadState.STARTING},
        {"state": WorkloadState.DOWNLOADING, "progress": 99},
        {"state": WorkloadState.FAILED, "epoch": 2, "error": "of another epoch"},
        {"state": WorkloadState.STOPPED, "epoch": 0},
    ):
        assert await rooms.report(deployment, **said) == seen
    assert await rooms.events() == before


async def test_a_report_of_an_older_session_is_refused(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    await rooms.greet(NodeId(deployment.node_id))
    with pytest.raises(SessionSupersededError):
        await rooms.report(deployment, session_epoch=1, **RUNNING)
    assert (await rooms.get(deployment.deployment_id)).status == deployment_pb2.Deployment.deploying


async def test_reports_of_unknown_workloads_and_of_another_node_are_passed_over(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    other = await rooms.join("node-2")
    impostor = WorkloadReport(other, deployment.deployment_id, 1, WorkloadState.FAILED, rooms.sessions[other])
    stray = WorkloadReport(other, "dep-unknown", 1, WorkloadState.RUNNING, rooms.sessions[other])
    await rooms.workloads.apply_report(impostor)
    await rooms.workloads.apply_report(stray)
    assert (await rooms.get(deployment.deployment_id)).status == deployment_pb2.Deployment.deploying


async def test_a_failure_says_why_keeps_the_log_and_can_be_cleaned_up(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    failed = await rooms.report(
        deployment,
        state=WorkloadState.FAILED,
        error="the engine ended with exit code 1",
        error_reason="OUT_OF_MEMORY",
        log_tail="Killed\n",
        event="oom",
        exit_code=137,
        container_id="pid-7",
    )
    assert failed.status == deployment_pb2.Deployment.failed
    assert failed.error_message == "the engine ended with exit code 1 (OUT_OF_MEMORY)"
    assert failed.log_tail == "Killed\n"
    (status,) = await rooms.events("system.deploymentStatus")
    assert (status["status"], status["error"]) == ("failed", failed.error_message)
    (container,) = await rooms.events("system.node.containerEvent")
    assert (container["event"], container["exitCode"], container["containerId"]) == ("oom", 137, "pid-7")
    stopped = await rooms.stop(deployment.deployment_id)
    assert stopped.status == deployment_pb2.Deployment.stopped
    change = await rooms.workloads.desired(NodeId(deployment.node_id), None)
    assert [each.goal for each in change.workloads] == [Goal.END]


async def test_an_engine_that_died_leaves_the_routes_until_it_runs_again(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    await rooms.report(deployment, **RUNNING)
    again = Container("pid-2", restarts=1)
    seen = await rooms.report(
        deployment, state=WorkloadState.STARTING, container_id="pid-2", container=again, event="died", exit_code=1
    )
    assert (seen.status, seen.restarts) == (deployment_pb2.Deployment.deploying, 1)
    seen = await rooms.report(deployment, **{**RUNNING, "container_id": "pid-2", "container": again})
    assert (seen.status, seen.container_id) == (deployment_pb2.Deployment.running, "pid-2")
    statuses = [each["status"] for each in await rooms.events("system.deploymentStatus")]
    assert statuses == ["running", "deploying", "running"]


async def test_a_new_session_is_believed_whatever_it_says(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    await rooms.report(deployment, **RUNNING)
    await rooms.greet(NodeId(deployment.node_id))
    seen = await rooms.report(deployment, state=WorkloadState.DOWNLOADING)
    assert (seen.status, seen.phase) == (deployment_pb2.Deployment.deploying, "downloading")


async def test_what_a_rebooted_machine_does_not_name_runs_no_more(rooms: Rooms) -> None:
    kept = await deployed(rooms)
    node_id = NodeId(kept.node_id)
    gone, stopped, failed = [await rooms.deploy() for _ in range(3)]
    for deployment in (kept, gone, stopped):
        await rooms.report(deployment, **RUNNING)
    await rooms.stop(stopped.deployment_id)
    failed = await rooms.report(failed, state=WorkloadState.FAILED, error="no")
    await rooms.greet(node_id)
    before = await rooms.report(kept, **RUNNING)
    for _ in range(2):
        await rooms.workloads.miss_unheard(node_id, rooms.sessions[node_id])
        assert await rooms.get(kept.deployment_id) == before
        assert (await rooms.get(gone.deployment_id)).status == deployment_pb2.Deployment.deploying
        assert await rooms.get(failed.deployment_id) == failed
        wanted = (await rooms.workloads.desired(node_id, None)).workloads
        assert {each.workload_id for each in wanted} == {each.deployment_id for each in (kept, gone, failed)}
    (lost,) = [
        each
        for each in await rooms.events("system.deploymentStatus")
        if (each["deploymentId"], each["status"]) == (gone.deployment_id, "deploying")
    ]
    assert lost["endpoint"] == ""


async def test_stopping_takes_effect_at_once_and_is_told_once(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    node_id = NodeId(deployment.node_id)
    await rooms.report(deployment, **RUNNING)
    await rooms.lose(node_id)
    stopped = await rooms.stop(deployment.deployment_id)
    assert stopped.status == deployment_pb2.Deployment.stopped
    assert stopped.HasField("stopped_at")
    assert await rooms.stop(deployment.deployment_id) == stopped
    (command,) = await rooms.events("system.node.stopContainer")
    assert (command["nodeId"], command["containerId"]) == (node_id, "pid-1")
    assert [each["status"] for each in await rooms.events("system.deploymentStatus")] == ["running", "stopped"]
    await rooms.greet(node_id)
    whole = await rooms.workloads.desired(node_id, None)
    assert [(each.goal, each.artifact_url) for each in whole.workloads] == [(Goal.END, "")]
    await rooms.report(deployment, **RUNNING)
    assert (await rooms.get(deployment.deployment_id)).status == deployment_pb2.Deployment.stopped
    await rooms.report(deployment, state=WorkloadState.STOPPED)
    assert (await rooms.workloads.desired(node_id, None)).workloads == ()


async def test_removing_a_node_stops_what_is_on_it(rooms: Rooms) -> None:
    first = await deployed(rooms)
    second = await rooms.deploy()
    third = await rooms.deploy()
    await rooms.report(second, state=WorkloadState.FAILED, error="no")
    node_id = NodeId(first.node_id)
    assert await rooms.workloads.count_on(SYSTEM, node_id) == 2
    await rooms.workloads.end_on(SYSTEM, node_id)
    assert await rooms.workloads.count_on(SYSTEM, node_id) == 0
    for deployment in (first, second, third):
        assert (await rooms.get(deployment.deployment_id)).status == deployment_pb2.Deployment.stopped
    await rooms.workloads.end_on(SYSTEM, node_id)
    assert len(await rooms.events("system.node.stopContainer")) == 3


async def test_a_failed_deployment_of_a_node_that_is_gone_can_still_be_stopped(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    await rooms.report(deployment, state=WorkloadState.FAILED, error="no")
    async with rooms.unit_of_work(SYSTEM) as work:
        node = await work.nodes.get(NodeId(deployment.node_id), SYSTEM, lock=True)
        await work.nodes.save(node.remove(rooms.clock.now()))
        await work.commit()
    assert (await rooms.stop(deployment.deployment_id)).status == deployment_pb2.Deployment.stopped


async def test_metrics_are_those_of_the_last_report_or_heartbeat(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    request = pb.GetDeploymentMetricsRequest(deployment_id=deployment.deployment_id)
    empty = (await rooms.deployments.GetDeploymentMetrics(request, metadata=EDITOR)).metrics
    assert (empty.memory_mb, empty.uptime_seconds) == (0, 0)
    started_at = rooms.clock.now() - timedelta(seconds=90)
    container = Container("pid-1", workload_id=deployment.deployment_id, memory_mb=450, started_at=started_at)
    await rooms.report(deployment, **RUNNING, container=container)
    said = (await rooms.deployments.GetDeploymentMetrics(request, metadata=EDITOR)).metrics
    assert (said.memory_mb, said.HasField("measured_at")) == (450, True)
    assert 89 < said.uptime_seconds < 120
    node_id = NodeId(deployment.node_id)
    beat = Container("pid-1", workload_id=deployment.deployment_id, memory_mb=500, cpu_percent=12.5)
    await rooms.liveness.heartbeat(Beat(node_id, rooms.sessions[node_id], Gauges(), (beat,), 1, tell=False))
    later = (await rooms.deployments.GetDeploymentMetrics(request, metadata=EDITOR)).metrics
    assert (later.memory_mb, later.cpu_percent) == (500, 12.5)


def placed_at(now: datetime) -> Deployment:
    return Deployment(
        DeploymentId("dep-1"),
        InstanceId("abcdefgh"),
        OrgId("o"),
        UserId("u"),
        ModelId("model-1"),
        "tiny",
        "vllm",
        "llm",
        NodeId("node-1"),
        image="",
        gpu_devices=(),
        memory_allocated=700,
        requested_port=0,
        request_id="req-1",
        revision=1,
        created_at=now,
        changed_at=now,
    )


reports = st.builds(
    lambda state, epoch, session, progress, restarts: WorkloadReport(
        NodeId("node-1"),
        "dep-1",
        epoch,
        state,
        session_epoch=session,
        progress=progress,
        container=Container("pid", restarts=restarts),
    ),
    st.sampled_from(WorkloadState),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(0, 100),
    st.integers(0, 2),
)


@given(st.lists(reports, max_size=20))
def test_any_sequence_of_reports_leaves_a_sound_deployment(sequence: list[WorkloadReport]) -> None:
    deployment = placed_at(NOW)
    for number, report in enumerate(sequence):
        now = NOW + timedelta(seconds=number)
        before, after = deployment, observe(deployment, report, now)
        if after is before:
            continue
        assert report.epoch == 1
        assert len(list(told(before, after, report, now))) <= 2
        if before.status is not after.status:
            assert (after.status is DeploymentStatus.RUNNING) == (report.state is WorkloadState.RUNNING)
            assert after.status is not DeploymentStatus.STOPPED
        assert after.observed.restarts >= before.observed.restarts
        assert after.observed.session_epoch >= before.observed.session_epoch
        assert 0 <= after.observed.progress <= 100
        deployment = remember_told(before.observed, after, now)
        again = observe(deployment, report, now)
        assert again.observed.phase == after.observed.phase
        assert not list(told(deployment, again, report, now))


def test_progress_is_told_in_steps_or_once_a_second() -> None:
    deployment, events = placed_at(NOW), 0
    for tenth in range(1_000):
        now = NOW + timedelta(milliseconds=10 * tenth)
        report = WorkloadReport(NodeId("node-1"), "dep-1", 1, WorkloadState.DOWNLOADING, progress=tenth // 50)
        after = observe(deployment, report, now)
        events += sum(isinstance(each, DeploymentProgressed) for each in told(deployment, after, report, now))
        deployment = remember_told(deployment.observed, after, now)
    assert 4 <= events <= 15
    assert deployment.observed.told_progress >= 18
