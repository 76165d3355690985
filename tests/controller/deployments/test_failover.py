"""A lost node's deployments go on elsewhere, once; what returns too late is told to stop, what is in time is kept."""

import asyncio
from datetime import timedelta
from typing import Any

from aiops.deployments.v1 import deployment_pb2

from controller.deployments.failover import Failover
from controller.deployments.workload import Goal, WorkloadReport, WorkloadState
from controller.nodes.model import NodeId
from controller.sessions.model import decide
from mesh.identity import SYSTEM
from tests.fixtures.registry import Rooms, gpu

DEPLOYING, RUNNING = deployment_pb2.Deployment.deploying, deployment_pb2.Deployment.running


def failover(rooms: Rooms) -> Failover:
    return Failover(rooms.unit_of_work, rooms.hints, rooms.clock)


async def running(rooms: Rooms, **fields: Any) -> deployment_pb2.Deployment:
    """A deployment that runs."""
    deployed = await rooms.deploy(**fields)
    return await rooms.report(deployed, state=WorkloadState.RUNNING, port=9100, container_id="41")


def report_of(deployment: deployment_pb2.Deployment, session_epoch: int) -> WorkloadReport:
    """What its node says of it when it returns."""
    return WorkloadReport(
        NodeId(deployment.node_id),
        deployment.deployment_id,
        deployment.epoch,
        WorkloadState.RUNNING,
        session_epoch,
        port=9100,
        container_id="41",
    )


async def test_it_goes_to_another_node_under_the_next_epoch(rooms: Rooms) -> None:
    nodes = {await rooms.join("node-1"), await rooms.join("node-2")}
    await rooms.import_model("tiny")
    before = await running(rooms)
    await rooms.lose(NodeId(before.node_id))
    (other,) = nodes - {NodeId(before.node_id)}
    with rooms.hints.watching_node(other) as wake:
        await failover(rooms).look()
        assert await wake.wait(timedelta())
    after = await rooms.get(before.deployment_id)
    assert (after.node_id, after.epoch, after.status) == (other, 2, DEPLOYING)
    assert (after.instance_id, after.endpoint, after.port) == (before.instance_id, before.endpoint, 0)
    assert "went offline" in after.status_reason
    (workload,) = (await rooms.workloads.desired(other, None)).workloads
    assert (workload.workload_id, workload.epoch, workload.goal) == (before.deployment_id, 2, Goal.RUN)
    moved = (await rooms.events("system.deploymentStatus"))[-1]
    assert (moved["status"], moved["reason"], moved["nodeId"]) == ("deploying", after.status_reason, other)
    assert (await rooms.events("system.node.deployModel"))[-1]["nodeId"] == other
    runs = await rooms.report(after, state=WorkloadState.RUNNING, port=9200)
    assert (runs.status, runs.status_reason, runs.port) == (RUNNING, "", 9200)


async def test_what_returns_after_the_move_is_told_to_stop_and_never_routed(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.join("node-2")
    await rooms.import_model("tiny")
    before = await running(rooms)
    home = NodeId(before.node_id)
    await rooms.lose(home)
    await failover(rooms).look()
    await rooms.greet(home)
    report = report_of(before, rooms.sessions[home])
    await rooms.workloads.apply_report(report)
    await rooms.workloads.miss_unheard(home, rooms.sessions[home])
    (decision,) = decide([report], await rooms.workloads.desired(home, None))
    assert (decision.adopt, decision.epoch) == (False, 1)
    assert (await rooms.get(before.deployment_id)).status == DEPLOYING
    async with rooms.unit_of_work.reading(SYSTEM) as work:
        assert await work.deployments.replicas() == ()


async def test_what_returns_before_the_move_is_kept_as_it_runs(rooms: Rooms) -> None:
    home = await rooms.join("node-1")
    await rooms.import_model("tiny")
    before = await running(rooms)
    await rooms.lose(home)
    mover = failover(rooms)
    await mover.look()
    waiting = await rooms.get(before.deployment_id)
    assert (waiting.status, waiting.epoch, waiting.node_id) == (DEPLOYING, 1, home)
    assert "waiting for another place" in waiting.status_reason
    assert "offline" in waiting.status_reason
    await rooms.greet(home)
    await mover.look()
    report = report_of(before, rooms.sessions[home])
    await rooms.workloads.apply_report(report)
    (decision,) = decide([report], await rooms.workloads.desired(home, None))
    assert decision.adopt
    after = await rooms.get(before.deployment_id)
    assert (after.status, after.epoch, after.status_reason, after.port) == (RUNNING, 1, "", 9100)
    told = await rooms.events("system.deploymentStatus")
    assert [each["status"] for each in told] == ["running", "deploying", "running"]


async def test_one_that_was_put_on_its_node_by_hand_waits_for_it(rooms: Rooms) -> None:
    home = await rooms.join("node-1")
    await rooms.join("node-2")
    await rooms.import_model("tiny")
    before = await running(rooms, node_id=home)
    await rooms.lose(home)
    mover = failover(rooms)
    await mover.look()
    await mover.look()
    waiting = await rooms.get(before.deployment_id)
    assert (waiting.node_id, waiting.epoch, waiting.status) == (home, 1, RUNNING)
    assert waiting.health_status == deployment_pb2.Deployment.unknown
    assert "put there by hand" in waiting.status_reason
    assert len(await rooms.events("system.deploymentStatus")) == 2
    await rooms.greet(home)
    await rooms.workloads.apply_report(report_of(before, rooms.sessions[home]))
    assert (await rooms.get(before.deployment_id)).status_reason == ""


async def test_without_a_place_it_is_tried_again_later_and_when_the_fleet_changes(rooms: Rooms) -> None:
    home = await rooms.join("node-1")
    await rooms.join("small", ram_free=300)
    await rooms.import_model("tiny")
    deployed = await running(rooms)
    await rooms.lose(home)
    mover = failover(rooms)
    with mover.watching():
        await mover.look()
        reason = (await rooms.get(deployed.deployment_id)).status_reason
        assert "small" in reason
        assert "300" in reason or "44 MB are free" in reason
        third = await rooms.join("node-3")
        async with asyncio.timeout(5):
            await mover.step()
    after = await rooms.get(deployed.deployment_id)
    assert (after.node_id, after.epoch) == (third, 2)
    assert len(await rooms.events("system.deploymentStatus")) == 3


async def test_the_devices_and_the_port_that_were_asked_for_are_kept(rooms: Rooms) -> None:
    cards = (gpu("0"), gpu("1"))
    await rooms.join("gpu-1", gpus=cards, engines=("vllm",))
    await rooms.import_model("tiny")
    before = await running(rooms, gpu_device="1", port=9000)
    other = await rooms.join("gpu-2", gpus=cards, engines=("vllm",))
    await rooms.join("gpu-3", gpus=cards[:1], engines=("vllm",))
    await rooms.lose(NodeId(before.node_id))
    await failover(rooms).look()
    after = await rooms.get(before.deployment_id)
    assert (after.node_id, after.gpu_device, after.port) == (other, "1", 9000)


async def test_two_controllers_move_each_once_and_what_ended_not_at_all(rooms: Rooms) -> None:
    lost = await rooms.join("node-1")
    await rooms.import_model("tiny")
    deployed = [await running(rooms) for _ in range(6)]
    await rooms.stop(deployed[0].deployment_id)
    await rooms.report(deployed[1], state=WorkloadState.FAILED, error="no")
    others = {await rooms.join("node-2"), await rooms.join("node-3")}
    await rooms.lose(lost)
    await asyncio.gather(failover(rooms).look(), failover(rooms).look())
    after = [await rooms.get(each.deployment_id) for each in deployed]
    assert [each.epoch for each in after] == [1, 1, 2, 2, 2, 2]
    assert {each.node_id for each in after[2:]} == others
    assert {each.node_id for each in after[:2]} == {lost}


async def test_an_older_epoch_that_reports_from_the_same_node_changes_nothing(rooms: Rooms) -> None:
    """Moved away and back: the node's first instance is of no use to anybody any more."""
    home, other = await rooms.join("node-1"), await rooms.join("node-2", ram_free=3_000)
    await rooms.import_model("tiny")
    first = await running(rooms)
    assert first.node_id == home
    await rooms.lose(home)
    await failover(rooms).look()
    await rooms.greet(home)
    await rooms.lose(other)
    await failover(rooms).look()
    again = await rooms.get(first.deployment_id)
    assert (again.node_id, again.epoch) == (home, 3)
    stale = report_of(first, rooms.sessions[home])
    await rooms.workloads.apply_report(stale)
    assert (await rooms.get(first.deployment_id)).status == DEPLOYING
    (decision,) = decide([stale], await rooms.workloads.desired(home, None))
    assert not decision.adopt
