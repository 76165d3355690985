"""Two controllers over one database are one platform, and the end of one of them loses nothing."""

import asyncio
import time
from contextlib import suppress

import grpc
from aiops.deployments.v1 import deployment_service_pb2 as pb

from tests.fakes.eventually import eventually
from tests.fixtures.processes import LEASE_S, Cluster, ControllerProcess

# A hint between controllers, not the next heartbeat, brings the news; starting the engine takes the rest.
DELIVERED_WITHIN_S = 15.0


async def logs(controller: ControllerProcess, deployment_id: str) -> str:
    request = pb.GetDeploymentLogsRequest(deployment_id=deployment_id)
    return (await controller.deployments.GetDeploymentLogs(request, metadata=controller.metadata)).logs


async def create(controller: ControllerProcess, name: str, acked: list[str], over: asyncio.Event) -> None:
    """Creates and stops deployments, one after another; what was answered is remembered."""
    number = 0
    while not over.is_set():
        number += 1
        made = await controller.deploy(request_id=f"{name}-{number}")
        acked.append(made.deployment_id)
        stop = pb.StopDeploymentRequest(deployment_id=made.deployment_id)
        await controller.deployments.StopDeployment(stop, metadata=controller.metadata)


async def create_until_killed(controller: ControllerProcess, acked: list[str], over: asyncio.Event) -> None:
    """The same, until nobody answers any more; then `over` is set."""
    with suppress(grpc.aio.AioRpcError):
        await create(controller, "a", acked, over)
    over.set()


async def test_nodes_commands_and_logs_reach_either_and_survive_the_end_of_one(cluster: Cluster) -> None:
    one, two = await cluster.start_controller(), await cluster.start_controller()
    both, reversed_ = f"{one.at.mesh},{two.at.mesh}", f"{two.at.mesh},{one.at.mesh}"
    await cluster.start_node("one", AIOPS_CONTROLLER_MESH=both)
    await cluster.start_node("two", AIOPS_CONTROLLER_MESH=reversed_)
    await cluster.import_model()
    await _commands_and_logs_cross(cluster, one, two)
    kept = [await two.deploy(node_id=node_id) for node_id in cluster.node_ids.values()]
    kept = [await two.until_running(each.deployment_id) for each in kept]
    acked: list[str] = []
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(create_until_killed(one, acked, over))
        group.create_task(create(two, "b", acked, over))

        async def is_busy() -> bool:
            return len(acked) >= 6

        await eventually(is_busy, 30)
        await one.kill()
    at = time.monotonic()
    present = pb.ListDeploymentsRequest(page_size=1000)
    listed = await two.deployments.ListDeployments(present, metadata=two.metadata)
    assert set(acked) <= {each.deployment_id for each in listed.deployments}

    async def both_have_sessions() -> bool:
        return await _held_by(cluster, two) == {"one", "two"}

    await eventually(both_have_sessions, 30)
    assert time.monotonic() - at < LEASE_S + 10
    for each in kept:
        now = await two.get(each.deployment_id)
        assert (now.epoch, now.restarts, now.container_id) == (1, 0, each.container_id)
    late = await two.deploy(node_id=cluster.node_ids["one"])
    await two.until_running(late.deployment_id)
    assert "engine starts" in await logs(two, late.deployment_id)


async def _commands_and_logs_cross(cluster: Cluster, one: ControllerProcess, two: ControllerProcess) -> None:
    """What is asked of one controller reaches the node whose session the other holds."""
    for controller, name in ((one, "two"), (two, "one")):
        assert name not in await _held_by(cluster, controller)
        begun = time.monotonic()
        made = await controller.deploy(node_id=cluster.node_ids[name])
        await controller.until_running(made.deployment_id)
        assert time.monotonic() - begun < DELIVERED_WITHIN_S
        assert "engine starts" in await logs(controller, made.deployment_id)
        stop = pb.StopDeploymentRequest(deployment_id=made.deployment_id)
        await controller.deployments.StopDeployment(stop, metadata=controller.metadata)


async def _held_by(cluster: Cluster, controller: ControllerProcess) -> set[str]:
    """The nodes whose sessions the controller holds, as the database has it."""
    holders = await cluster.session_holders()
    return {name for name, holder in holders.items() if holder == controller.at.mesh}
