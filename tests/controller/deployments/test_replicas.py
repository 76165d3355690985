"""The inference router hears of every instance that may receive traffic, and of every change."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from aiops.deployments.v1 import deployment_service_pb2 as pb

from controller.deployments.model import DeploymentId
from controller.deployments.service import Deployments
from controller.deployments.workload import HealthStatus, UnsupportedField, WorkloadState
from controller.hints import Hints
from controller.nodes.model import Container, NodeId
from mesh.identity import SYSTEM
from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, ROUTER, Rooms

RUNNING: dict[str, Any] = {
    "state": WorkloadState.RUNNING,
    "engine": "transformers",
    "port": 40_001,
    "health": HealthStatus.HEALTHY,
    "inference_path": "/v1/chat/completions",
    "unsupported_fields": (UnsupportedField("n", ("1",)),),
}


class Feed:
    """The router's end of the stream."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def next(self) -> list[pb.Replica]:
        """The next snapshot, which must come within two seconds."""
        async with asyncio.timeout(2):
            response: pb.WatchReplicasResponse = await self._call.read()
        return list(response.replicas)

    async def is_quiet(self) -> bool:
        """Whether nothing is sent in the time of more than one look."""
        try:
            async with asyncio.timeout(1.3):
                await self._call.read()
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def watching(rooms: Rooms) -> AsyncIterator[Feed]:
    call = rooms.replicas.WatchReplicas(pb.WatchReplicasRequest(), metadata=ROUTER)
    try:
        yield Feed(call)
    finally:
        call.cancel()


async def test_an_instance_is_told_when_it_runs_and_untold_when_it_stops(rooms: Rooms) -> None:
    await rooms.join("node-1")
    model = await rooms.import_model("tiny")
    deployment = await rooms.deploy()
    async with watching(rooms) as feed:
        assert await feed.next() == []
        await rooms.report(deployment, **RUNNING)
        (replica,) = await feed.next()
        assert (replica.deployment_id, replica.instance_id) == (deployment.deployment_id, deployment.instance_id)
        assert (replica.org_id, replica.model_id, replica.model_name) == ("org-a", model.model_id, "tiny")
        assert (replica.address, replica.port, replica.epoch) == ("127.0.0.1", 40_001, 1)
        assert (replica.engine, replica.inference_path) == ("transformers", "/v1/chat/completions")
        assert [(each.path, list(each.harmless_values)) for each in replica.unsupported_fields] == [("n", ["1"])]
        assert replica.created == deployment.created_at.ToMicroseconds() / 1e6
        await rooms.stop(deployment.deployment_id)
        assert await feed.next() == []


async def test_a_lost_node_takes_its_instances_along_until_it_is_back(rooms: Rooms) -> None:
    nodes = [await rooms.join("node-1"), await rooms.join("node-2")]
    await rooms.import_model("tiny")
    made = [await rooms.deploy(), await rooms.deploy()]
    assert {each.node_id for each in made} == set(nodes)
    for deployment in made:
        await rooms.report(deployment, **RUNNING)
    async with watching(rooms) as feed:
        assert len(await feed.next()) == 2
        await rooms.lose(NodeId(made[0].node_id))
        assert [each.deployment_id for each in await feed.next()] == [made[1].deployment_id]
        await rooms.greet(NodeId(made[0].node_id))
        assert len(await feed.next()) == 2


async def test_who_asks_for_changes_is_told_everything_once_and_then_only_what_is_different(rooms: Rooms) -> None:
    home = [await rooms.join("node-1"), await rooms.join("node-2")]
    await rooms.import_model("tiny")
    made = [await rooms.deploy(), await rooms.deploy()]
    await rooms.report(made[0], **RUNNING)
    call: Any = rooms.replicas.WatchReplicas(pb.WatchReplicasRequest(changes=True), metadata=ROUTER)

    async def told() -> tuple[bool, list[str], list[str]]:
        async with asyncio.timeout(20):
            message: pb.WatchReplicasResponse = await call.read()
        return message.partial, [each.deployment_id for each in message.replicas], list(message.gone_deployment_ids)

    assert await told() == (False, [made[0].deployment_id], [])
    await rooms.report(made[1], **RUNNING)
    assert await told() == (True, [made[1].deployment_id], [])
    assert {each.node_id for each in made} == set(home)
    await rooms.lose(NodeId(made[0].node_id))
    assert await told() == (True, [], [made[0].deployment_id])
    await rooms.greet(NodeId(made[0].node_id))
    assert await told() == (True, [made[0].deployment_id], [])
    await rooms.stop(made[1].deployment_id)
    assert await told() == (True, [], [made[1].deployment_id])
    call.cancel()


async def test_what_changes_nothing_for_traffic_is_not_sent(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    deployment = await rooms.deploy()
    await rooms.report(deployment, **RUNNING)
    async with watching(rooms) as feed:
        assert len(await feed.next()) == 1
        await rooms.report(deployment, **RUNNING, container=Container("pid-1", memory_mb=900))
        assert await feed.is_quiet()


async def test_a_change_by_another_controller_is_found_without_a_hint(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    deployment = await rooms.deploy()
    await rooms.report(deployment, **RUNNING)
    async with watching(rooms) as feed:
        assert len(await feed.next()) == 1
        other = Deployments(rooms.unit_of_work, Hints())
        await other.stop(SYSTEM, DeploymentId(deployment.deployment_id))
        assert await feed.next() == []


async def test_users_do_not_watch_replicas(rooms: Rooms) -> None:
    error = await refusal(rooms.replicas.WatchReplicas(pb.WatchReplicasRequest(), metadata=EDITOR).read())
    assert error.code is grpc.StatusCode.PERMISSION_DENIED
