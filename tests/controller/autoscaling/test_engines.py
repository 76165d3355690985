"""What engines say of themselves: their queues make replicas, and their load makes shares of requests."""

from datetime import UTC, datetime, timedelta

from aiops.deployments.v1 import deployment_service_pb2 as deployments_pb
from aiops.routing.v1 import route_pb2
from aiops.routing.v1 import route_service_pb2 as routes_pb

from controller.autoscaling.reconcile import Autoscaler
from controller.nodes.heartbeats import Beat
from controller.nodes.model import Container, EngineLoad, Gauges, NodeId
from controller.routing.load_weights import LoadWeights, load_weight
from mesh.identity import SYSTEM
from tests.controller.autoscaling.test_autoscaling import QUICK, create, get, told
from tests.controller.autoscaling.test_warm import active, settle
from tests.fixtures.registry import EDITOR, ROUTER, Rooms

AT = datetime(2026, 1, 1, tzinfo=UTC)


async def said(rooms: Rooms, node_id: NodeId, deployment_id: str, load: EngineLoad | None) -> None:
    """A heartbeat that tells of the deployment's engine."""
    container = Container("c-1", workload_id=deployment_id, engine_load=load)
    beat = Beat(node_id, rooms.sessions[node_id], Gauges(ram_total=16_000, ram_free=8_000), (container,), 0, tell=False)
    await rooms.liveness.heartbeat(beat)


async def test_replicas_follow_the_queues_of_their_engines(rooms: Rooms) -> None:
    node_id = await rooms.join("one")
    await rooms.import_model()
    made = await create(rooms, min_replicas=1, max_replicas=4, target_queue=2, **QUICK)
    (first,) = await settle(rooms)
    autoscaler = Autoscaler(rooms.unit_of_work, rooms.hints)
    await told(rooms, made.replica_set_id, 99)
    await autoscaler.look()
    assert (await get(rooms)).replicas == 1
    await said(rooms, node_id, first, EngineLoad(running_requests=8, waiting_requests=6))
    await autoscaler.look()
    grown = await get(rooms)
    why = "6 requests in the engines' queues over 2 each make 3"
    assert (grown.replicas, grown.autoscaling_status.scaled_why) == (3, why)
    # The queue is gone, but of the new engines nobody knows it.
    await settle(rooms)
    await said(rooms, node_id, first, EngineLoad(running_requests=8))
    await autoscaler.look()
    assert (await get(rooms)).replicas == 3


async def test_routers_are_told_how_busy_engines_are_where_a_route_wants_to_know(rooms: Rooms) -> None:
    node_id = await rooms.join("one")
    await rooms.import_model()
    await create(rooms, min_replicas=1, max_replicas=1)
    (first,) = await settle(rooms)
    await said(rooms, node_id, first, EngineLoad(kv_cache_percent=60))
    await _route(rooms)
    watching = rooms.replicas.WatchReplicas(
        deployments_pb.WatchReplicasRequest(changes=True), metadata=ROUTER, timeout=30
    )
    weights = list[int]()
    while 3 not in weights:
        message = await watching.read()
        assert isinstance(message, deployments_pb.WatchReplicasResponse), weights
        weights += [each.load_weight for each in message.replicas]
    watching.cancel()
    assert weights in ([3], [0, 3])


async def _route(rooms: Rooms) -> None:
    wish = routes_pb.RouteWish(
        name="fast",
        targets=[route_pb2.RouteTarget(model="tiny", weight=1)],
        balancing=route_pb2.Balancing(by_load=True),
    )
    made = (await rooms.routes.CreateRoute(routes_pb.CreateRouteRequest(route=wish), metadata=EDITOR)).route
    assert made.balancing.by_load


def test_the_busier_an_engine_the_smaller_its_share_in_few_steps() -> None:
    assert load_weight(EngineLoad()) == 10
    assert load_weight(EngineLoad(running_requests=9, kv_cache_percent=29)) == 7
    assert load_weight(EngineLoad(kv_cache_percent=50)) == 5
    assert load_weight(EngineLoad(kv_cache_percent=50, waiting_requests=1)) == 2
    assert load_weight(EngineLoad(kv_cache_percent=100, waiting_requests=50)) == 1


async def test_engines_are_weighed_from_time_to_time(rooms: Rooms) -> None:
    node_id = await rooms.join("one")
    await rooms.import_model()
    await create(rooms, min_replicas=1, max_replicas=1)
    (first,) = await settle(rooms)
    await _route(rooms)
    weights = LoadWeights()
    seen = list[tuple[int, bool]]()
    for load, after in ((0, 0), (90, 1), (90, 5), (91, 10)):
        await said(rooms, node_id, first, EngineLoad(kv_cache_percent=load))
        async with rooms.unit_of_work.reading(SYSTEM) as work:
            routes = await work.routes.all()
            running = [await work.deployments.get(each.deployment_id, SYSTEM) for each in await active(rooms)]
            changed = await weights.look(work.loads, routes, running, AT + timedelta(seconds=after))
        seen.append((weights.of(running[0].deployment_id), bool(changed)))
    assert seen == [(10, True), (10, False), (1, True), (1, False)]
