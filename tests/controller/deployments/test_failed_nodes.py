"""What a node fails for its own sake is tried on others, a few times; what says something of the model is not."""

from typing import Any

import pytest
from aiops.deployments.v1 import deployment_pb2

from controller.deployments.failover import Failover
from controller.deployments.workload import Goal, WorkloadState
from controller.nodes.model import NodeId
from tests.fixtures.registry import Rooms

DEPLOYING, FAILED = deployment_pb2.Deployment.deploying, deployment_pb2.Deployment.failed
FULL: dict[str, Any] = {"error": "No space left on device; free some", "error_reason": "DISK_FULL"}


@pytest.fixture
def failover(rooms: Rooms) -> Failover:
    return Failover(rooms.unit_of_work, rooms.hints, rooms.clock)


async def failed(rooms: Rooms, deployment: deployment_pb2.Deployment, **said: Any) -> deployment_pb2.Deployment:
    """The deployment once its node has given up."""
    return await rooms.report(deployment, state=WorkloadState.FAILED, **(said or FULL))


async def left(rooms: Rooms, deployment: deployment_pb2.Deployment) -> deployment_pb2.Deployment:
    """The deployment once its node has told that nothing of it is left there."""
    return await rooms.report(deployment, state=WorkloadState.STOPPED)


async def goals(rooms: Rooms, node_id: str) -> list[tuple[int, Goal]]:
    """What the node is to do: epoch and goal."""
    workloads = (await rooms.workloads.desired(NodeId(node_id), 0)).workloads
    return [(each.epoch, each.goal) for each in workloads]


async def test_it_ends_where_it_failed_and_goes_to_another_node_with_the_reason(
    rooms: Rooms, failover: Failover
) -> None:
    nodes = {await rooms.join("node-1"), await rooms.join("node-2")}
    await rooms.import_model("tiny")
    first = await failed(rooms, await rooms.deploy())
    await failover.look()
    leaving = await rooms.get(first.deployment_id)
    assert (leaving.node_id, leaving.epoch, leaving.status) == (first.node_id, 1, DEPLOYING)
    assert await goals(rooms, first.node_id) == [(1, Goal.END)]
    await failover.look()
    assert (await rooms.get(first.deployment_id)).epoch == 1
    await left(rooms, leaving)
    await failover.look()
    moved = await rooms.get(first.deployment_id)
    assert ({moved.node_id, first.node_id}, moved.epoch, moved.status) == (nodes, 2, DEPLOYING)
    assert "No space left on device; free some (DISK_FULL)" in moved.status_reason
    assert await goals(rooms, moved.node_id) == [(2, Goal.RUN)]
    told = [(each["status"], each["nodeId"]) for each in await rooms.events("system.deploymentStatus")]
    assert told == [("failed", first.node_id), ("deploying", first.node_id), ("deploying", moved.node_id)]


async def test_it_fails_for_good_on_the_third_node_and_where_no_other_would_take_it(
    rooms: Rooms, failover: Failover
) -> None:
    for number in range(4):
        await rooms.join(f"node-{number}")
    await rooms.import_model("tiny")
    now, seen = await rooms.deploy(), list[str]()
    for _ in range(3):
        seen.append(now.node_id)
        await failed(rooms, now)
        await failover.look()
        if (await rooms.get(now.deployment_id)).status == DEPLOYING:
            await left(rooms, now)
            await failover.look()
        now = await rooms.get(now.deployment_id)
    assert (len(set(seen)), now.epoch, now.status) == (3, 3, FAILED)
    assert "DISK_FULL" in now.error_message


async def test_after_it_has_run_every_node_is_good_enough_again(rooms: Rooms, failover: Failover) -> None:
    await rooms.join("node-1")
    await rooms.join("node-2")
    await rooms.import_model("tiny")
    now = await rooms.deploy()
    homes = [now.node_id]
    for _ in range(2):
        await failed(rooms, now)
        await failover.look()
        await left(rooms, now)
        await failover.look()
        now = await rooms.report(await rooms.get(now.deployment_id), state=WorkloadState.RUNNING, port=9100)
        homes.append(now.node_id)
    assert homes[0] == homes[2] != homes[1]
    assert now.epoch == 3


@pytest.mark.parametrize("reason", ["OUT_OF_MEMORY", "NOT_A_MODEL", "ENGINE_FAILED"])
async def test_what_is_not_the_nodes_fault_stays_failed(rooms: Rooms, failover: Failover, reason: str) -> None:
    await rooms.join("node-1")
    await rooms.join("node-2")
    await rooms.import_model("tiny")
    first = await failed(rooms, await rooms.deploy(), error="it ended", error_reason=reason)
    await failover.look()
    after = await rooms.get(first.deployment_id)
    assert (after.status, after.epoch, after.node_id) == (FAILED, 1, first.node_id)


async def test_one_that_was_put_there_by_hand_or_has_nowhere_to_go_stays_failed(
    rooms: Rooms, failover: Failover
) -> None:
    first = await rooms.join("node-1")
    await rooms.import_model("tiny")
    alone = await failed(rooms, await rooms.deploy())
    await failover.look()
    assert (await rooms.get(alone.deployment_id)).status == FAILED
    await rooms.stop(alone.deployment_id)
    await rooms.join("node-2")
    pinned = await failed(rooms, await rooms.deploy(node_id=first))
    await failover.look()
    assert (await rooms.get(pinned.deployment_id)).status == FAILED


async def test_one_that_is_stopped_while_it_leaves_goes_nowhere(rooms: Rooms, failover: Failover) -> None:
    await rooms.join("node-1")
    await rooms.join("node-2")
    await rooms.import_model("tiny")
    first = await failed(rooms, await rooms.deploy())
    await failover.look()
    await rooms.stop(first.deployment_id)
    await left(rooms, first)
    await failover.look()
    after = await rooms.get(first.deployment_id)
    assert (after.status, after.epoch) == (deployment_pb2.Deployment.stopped, 1)


async def test_a_node_with_a_full_disk_is_given_nothing(rooms: Rooms) -> None:
    await rooms.join("node-1", disk_total=50_000, disk_free=0)
    other = await rooms.join("node-2", disk_total=50_000, disk_free=1, ram_free=2_000)
    await rooms.import_model("tiny")
    assert (await rooms.deploy()).node_id == other
