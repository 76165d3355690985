"""Warm replicas run without requests, and take over at once when more are wanted, one fails or a model wakes."""

from typing import Any

from aiops.deployments.v1 import deployment_service_pb2 as deployments_pb
from sqlalchemy import text

from controller.autoscaling.reconcile import Autoscaler
from controller.deployments.workload import HealthStatus, WorkloadState
from controller.replica_sets.reconcile import Reconciler
from mesh.identity import SYSTEM
from tests.controller.autoscaling.test_autoscaling import QUICK, SLEEPY, create, get, told
from tests.fixtures.registry import ROUTER, Rooms


async def routed(rooms: Rooms) -> list[str]:
    """The deployments that routers are told to send requests to."""
    watching = rooms.replicas.WatchReplicas(deployments_pb.WatchReplicasRequest(), metadata=ROUTER, timeout=20)
    first = await watching.read()
    watching.cancel()
    assert isinstance(first, deployments_pb.WatchReplicasResponse)
    return sorted(each.deployment_id for each in first.replicas)


async def active(rooms: Rooms) -> list[Any]:
    async with rooms.unit_of_work.reading(SYSTEM) as work:
        (set_id,) = await work.replica_sets.autoscaled()
        members = (await work.replica_sets.members([set_id])).get(set_id, ())
    return [await rooms.get(each.deployment.deployment_id) for each in members]


async def settle(rooms: Rooms) -> list[str]:
    """Everything that is to run does, and has done so for a while; answers what that is, the oldest first."""
    loop = Reconciler(rooms.unit_of_work, rooms.hints, rooms.clock)
    await loop.look()
    for each in await active(rooms):
        await rooms.report(each, state=WorkloadState.RUNNING, port=9000)
    async with rooms.database.writing(SYSTEM) as connection:
        await connection.execute(text("UPDATE deployments SET deployed_at = deployed_at - interval '3 s'"))
        await connection.commit()
    await loop.look()
    return [each.deployment_id for each in await active(rooms)]


async def test_a_warm_replica_gets_requests_as_soon_as_more_are_wanted(rooms: Rooms) -> None:
    await rooms.join("one")
    await rooms.import_model()
    made = await create(rooms, min_replicas=1, max_replicas=3, target_concurrency=1, warm_replicas=1, **QUICK)
    first, warm = await settle(rooms)
    assert await routed(rooms) == [first]
    assert ((await get(rooms)).ready_replicas, (await get(rooms)).autoscaling_status.warm_replicas) == (1, 1)
    await told(rooms, made.replica_set_id, 2)
    await Autoscaler(rooms.unit_of_work, rooms.hints).look()
    await Reconciler(rooms.unit_of_work, rooms.hints, rooms.clock).look()
    # Before the next one has even started.
    assert await routed(rooms) == sorted([first, warm])
    *_, third = await settle(rooms)
    assert third not in await routed(rooms)
    await told(rooms, made.replica_set_id)
    await Autoscaler(rooms.unit_of_work, rooms.hints).look()
    assert len(await settle(rooms)) == 2
    assert await routed(rooms) == [first]


async def test_a_sleeping_model_wakes_with_what_is_warm(rooms: Rooms) -> None:
    await rooms.join("one")
    await rooms.import_model()
    made = await create(rooms, warm_replicas=1, **SLEEPY)
    await settle(rooms)
    autoscaler = Autoscaler(rooms.unit_of_work, rooms.hints)
    await told(rooms, made.replica_set_id, idle_s=61)
    await autoscaler.look()
    (warm,) = await settle(rooms)
    assert await routed(rooms) == []
    assert (await get(rooms)).replicas == 0
    await told(rooms, made.replica_set_id, held=1)
    await autoscaler.look()
    await Reconciler(rooms.unit_of_work, rooms.hints, rooms.clock).look()
    assert await routed(rooms) == [warm]


async def test_a_warm_replica_stands_in_for_one_that_is_unwell(rooms: Rooms) -> None:
    await rooms.join("one")
    await rooms.import_model()
    await create(rooms, min_replicas=1, max_replicas=1, warm_replicas=1)
    first, warm = await settle(rooms)
    assert await routed(rooms) == [first]
    unwell = await rooms.get(first)
    await rooms.report(unwell, state=WorkloadState.RUNNING, port=9000, health=HealthStatus.UNHEALTHY)
    await Reconciler(rooms.unit_of_work, rooms.hints, rooms.clock).look()
    assert await routed(rooms) == [warm]
