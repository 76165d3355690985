"""The number of replicas follows what gateways report, in whichever controller, and says why."""

import asyncio
from datetime import timedelta
from typing import Any

from aiops.deployments.v1 import autoscaling_pb2, replica_set_pb2
from aiops.deployments.v1 import deployment_service_pb2 as deployments_pb
from aiops.deployments.v1 import replica_set_service_pb2 as pb
from sqlalchemy import text

from controller.autoscaling.model import SetLoad
from controller.autoscaling.reconcile import Autoscaler
from controller.autoscaling.service import Loads
from mesh.identity import SYSTEM
from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, ROUTER, Rooms

QUICK: dict[str, Any] = {"scale_up_seconds": 0, "scale_down_seconds": 0, "cooldown_seconds": 0}
SLEEPY: dict[str, Any] = {"min_replicas": 0, "max_replicas": 2, "idle_seconds": 60, "hold_seconds": 30}


async def create(rooms: Rooms, **autoscaling: Any) -> replica_set_pb2.ReplicaSet:
    asked = autoscaling_pb2.Autoscaling(**autoscaling)
    request = pb.CreateReplicaSetRequest(model_id="tiny", replicas=1, autoscaling=asked)
    return (await rooms.sets.CreateReplicaSet(request, metadata=EDITOR)).replica_set


async def get(rooms: Rooms) -> replica_set_pb2.ReplicaSet:
    request = pb.GetReplicaSetRequest(replica_set_id="tiny")
    return (await rooms.sets.GetReplicaSet(request, metadata=EDITOR)).replica_set


async def told(
    rooms: Rooms, set_id: str, in_flight: int = 0, *, held: int = 0, idle_s: float = 0, gateway: str = "one"
) -> None:
    loads = Loads(rooms.unit_of_work, rooms.hints)
    await loads.report(gateway, [SetLoad(set_id, in_flight, held, timedelta(seconds=idle_s))])


async def test_replicas_follow_the_requests_of_all_gateways_and_say_why(rooms: Rooms) -> None:
    await rooms.import_model()
    made = await create(rooms, min_replicas=1, max_replicas=4, target_concurrency=8, **QUICK)
    assert (made.autoscaling.target_concurrency, made.autoscaling.idle_seconds) == (8, 300)
    autoscaler = Autoscaler(rooms.unit_of_work, rooms.hints)
    await autoscaler.look()
    assert (await get(rooms)).replicas == 1
    await told(rooms, made.replica_set_id, 12)
    await told(rooms, made.replica_set_id, 9, gateway="two")
    # Two controllers look at once and change it once.
    await asyncio.gather(autoscaler.look(), Autoscaler(rooms.unit_of_work, rooms.hints).look())
    grown = await get(rooms)
    why = "21 requests in flight over 8 each make 3"
    status = grown.autoscaling_status
    assert (grown.replicas, status.scaled_from, status.scaled_to, status.scaled_why) == (3, 1, 3, why)
    (event,) = await rooms.events("system.replicaSetScaled")
    assert (event["replicasBefore"], event["replicas"], event["why"], event["key"]) == (1, 3, why, made.replica_set_id)
    await told(rooms, made.replica_set_id, 500)
    await autoscaler.look()
    assert (await get(rooms)).replicas == 4
    await told(rooms, made.replica_set_id)
    await told(rooms, made.replica_set_id, gateway="two")
    await autoscaler.look()
    assert (await get(rooms)).replicas == 1


async def test_a_silent_gateway_keeps_what_is_there_until_it_is_gone(rooms: Rooms) -> None:
    await rooms.import_model()
    made = await create(rooms, min_replicas=1, max_replicas=4, target_concurrency=1, **QUICK)
    autoscaler = Autoscaler(rooms.unit_of_work, rooms.hints)
    await told(rooms, made.replica_set_id, 3, gateway="silent")
    await autoscaler.look()
    for seconds, replicas in ((10, 3), (70, 1)):
        async with rooms.database.writing(SYSTEM) as connection:
            late = text("UPDATE replica_set_loads SET reported_at = now() - make_interval(secs => :seconds)")
            await connection.execute(late, {"seconds": seconds})
            await connection.commit()
        await told(rooms, made.replica_set_id)
        await autoscaler.look()
        assert (await get(rooms)).replicas == replicas
    await Loads(rooms.unit_of_work, rooms.hints).keep_house()
    async with rooms.database.reading(SYSTEM) as connection:
        assert (await connection.execute(text("SELECT reporter FROM replica_set_loads"))).scalars().all() == ["one"]


async def test_a_model_sleeps_and_whoever_waits_wakes_it(rooms: Rooms) -> None:
    await rooms.import_model()
    made = await create(rooms, **SLEEPY)
    autoscaler = Autoscaler(rooms.unit_of_work, rooms.hints)
    await told(rooms, made.replica_set_id, idle_s=59)
    await autoscaler.look()
    assert (await get(rooms)).replicas == 1
    await told(rooms, made.replica_set_id, idle_s=61)
    await autoscaler.look()
    asleep = await get(rooms)
    assert (asleep.replicas, asleep.autoscaling_status.scaled_why) == (0, "nobody asked for 60 s")
    with autoscaler.watching():
        await told(rooms, made.replica_set_id, held=2)
        async with asyncio.timeout(5):
            await autoscaler.step()
    awake = await get(rooms)
    assert (awake.replicas, awake.autoscaling_status.scaled_why) == (1, "2 requests wait for it to wake")


async def test_routers_are_told_which_models_may_sleep_and_whose_load_counts(rooms: Rooms) -> None:
    await rooms.import_model()
    made = await create(rooms, **SLEEPY)
    watching = rooms.replicas.WatchReplicas(deployments_pb.WatchReplicasRequest(), metadata=ROUTER, timeout=20)
    first = await watching.read()
    assert isinstance(first, deployments_pb.WatchReplicasResponse)
    assert [(each.model_name, each.replica_set_id, each.hold_seconds) for each in first.sleepy] == [
        ("tiny", made.replica_set_id, 30)
    ]
    watching.cancel()


async def test_it_is_switched_off_by_naming_it_without_a_word_and_bounds_must_fit(rooms: Rooms) -> None:
    await rooms.import_model()
    await create(rooms, **SLEEPY)
    request = pb.UpdateReplicaSetRequest(replica_set_id="tiny", replica_set=pb.ReplicaSetUpdate())
    request.update_mask.paths.append("autoscaling")
    after = (await rooms.sets.UpdateReplicaSet(request, metadata=EDITOR)).replica_set
    assert not after.HasField("autoscaling")
    request.replica_set.autoscaling.min_replicas, request.replica_set.autoscaling.max_replicas = 3, 2
    refused = await refusal(rooms.sets.UpdateReplicaSet(request, metadata=EDITOR))
    assert refused.reason == "INVALID_REQUEST"
