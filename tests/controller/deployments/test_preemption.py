"""A deployment of higher priority takes the place of a lower one, which says so and goes elsewhere when it can."""

from aiops.deployments.v1 import deployment_pb2
from aiops.deployments.v1 import deployment_service_pb2 as pb

from controller.deployments.failover import Failover
from controller.deployments.workload import Goal, WorkloadState
from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, Rooms

ROOM_FOR_ONE = 256 + 900


async def test_what_is_evicted_waits_says_why_and_goes_where_room_comes(rooms: Rooms) -> None:
    failover = Failover(rooms.unit_of_work, rooms.hints, rooms.clock)
    node_id = await rooms.join("small", ram_free=ROOM_FOR_ONE)
    await rooms.import_model("tiny")
    low = await rooms.report(await rooms.deploy(), state=WorkloadState.RUNNING, port=9000)
    assert (await refusal(rooms.deploy())).reason == "NO_PLACEMENT"
    request = pb.PlanDeploymentRequest(model_id="tiny", priority=5)
    planned = await rooms.deployments.PlanDeployment(request, metadata=EDITOR)
    assert [each.deployment_id for each in planned.placement.evictions] == [low.deployment_id]
    high = await rooms.deploy(priority=5)
    assert (high.node_id, high.priority) == (node_id, 5)
    evicted = await rooms.get(low.deployment_id)
    assert evicted.status == deployment_pb2.Deployment.deploying
    assert f"evicted for {high.deployment_id}" in evicted.error_message
    (told,) = await rooms.events("system.deploymentEvicted")
    assert (told["key"], told["evictedBy"]) == (low.deployment_id, high.deployment_id)
    wanted = {each.workload_id: each.goal for each in (await rooms.workloads.desired(node_id, None)).workloads}
    assert wanted == {low.deployment_id: Goal.END, high.deployment_id: Goal.RUN}
    # Nothing moves before its node has told the end; then it waits until there is room.
    other = await rooms.join("other", ram_free=ROOM_FOR_ONE)
    await failover.look()
    assert (await rooms.get(low.deployment_id)).epoch == 1
    await rooms.report(low, state=WorkloadState.STOPPED)
    await failover.look()
    moved = await rooms.get(low.deployment_id)
    assert (moved.node_id, moved.epoch, moved.error_message) == (other, 2, "")
    assert "evicted for" in moved.status_reason
    running = await rooms.report(moved, state=WorkloadState.RUNNING, port=9001)
    assert running.status == deployment_pb2.Deployment.running


async def test_an_equal_priority_is_refused_and_a_stopped_one_does_not_come_back(rooms: Rooms) -> None:
    failover = Failover(rooms.unit_of_work, rooms.hints, rooms.clock)
    await rooms.join("small", ram_free=ROOM_FOR_ONE)
    await rooms.import_model("tiny")
    low = await rooms.deploy(priority=3)
    assert (await refusal(rooms.deploy(priority=3))).reason == "NO_PLACEMENT"
    await rooms.deploy(priority=4)
    await rooms.report(low, state=WorkloadState.STOPPED)
    await failover.look()
    assert "waiting for another place" in (await rooms.get(low.deployment_id)).status_reason
    await rooms.stop(low.deployment_id)
    await rooms.join("late")
    await failover.look()
    assert (await rooms.get(low.deployment_id)).status == deployment_pb2.Deployment.stopped


async def test_what_is_asked_for_is_kept_told_to_the_node_and_checked(rooms: Rooms) -> None:
    node_id = await rooms.join("node-1")
    await rooms.import_model("tiny")
    deployment = await rooms.deploy(context_tokens=256, max_concurrency=3)
    assert (deployment.context_tokens, deployment.max_concurrency) == (256, 3)
    (workload,) = (await rooms.workloads.desired(node_id, None)).workloads
    assert (workload.context_tokens, workload.max_concurrency) == (256, 3)
    error = await refusal(rooms.deploy(context_tokens=1_000_000))
    assert error.reason == "INVALID_REQUEST"
    assert (await refusal(rooms.deploy(gpu_device="0", gpu_count=2))).reason == "INVALID_REQUEST"
    lacking = await refusal(rooms.deploy(required_labels={"zone": "a"}))
    assert (lacking.reason, "lacks the label zone=a" in lacking.message) == ("NO_PLACEMENT", True)
