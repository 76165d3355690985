"""Routes are kept as they are wished for, each name once, and are told to whoever routes."""

import asyncio
from typing import Any

from aiops.deployments.v1 import deployment_service_pb2 as deployments_pb
from aiops.routing.v1 import alert_service_pb2, route_pb2
from aiops.routing.v1 import route_service_pb2 as pb
from aiops.routing.v1.alert_service_pb2_grpc import RoutingAlertServiceStub
from google.protobuf.field_mask_pb2 import FieldMask

from mesh.rpc.channel import open_channel
from tests.fixtures.iam import refusal
from tests.fixtures.registry import ADMIN, EDITOR, ROUTER, STRANGER, Metadata, Rooms

Target = route_pb2.RouteTarget


def wish(name: str = "fast", **fields: Any) -> pb.RouteWish:
    return pb.RouteWish(**{"name": name, "targets": [Target(model="tiny", weight=1)], **fields})


async def create(rooms: Rooms, name: str = "fast", by: Metadata = EDITOR, **fields: Any) -> route_pb2.Route:
    request = pb.CreateRouteRequest(route=wish(name, **fields))
    return (await rooms.routes.CreateRoute(request, metadata=by)).route


async def update(rooms: Rooms, *paths: str, version: int = 0, **fields: Any) -> route_pb2.Route:
    mask = FieldMask(paths=paths)
    request = pb.UpdateRouteRequest(route_id="fast", route=pb.RouteWish(**fields), update_mask=mask, version=version)
    return (await rooms.routes.UpdateRoute(request, metadata=EDITOR)).route


async def told_routes(call: Any) -> list[route_pb2.Route]:
    """The routes of the stream's next message."""
    return list((await asyncio.wait_for(call.read(), 30)).routes)


async def test_a_route_is_kept_as_it_is_wished_for(rooms: Rooms) -> None:
    made = await create(
        rooms,
        aliases=["quick"],
        targets=[
            Target(model="tiny", weight=90),
            Target(
                name="away",
                provider=Target.openai_compatible,
                model="gpt",
                base_url="https://llm.example/v1/",
                credential_header="api-key",
            ),
        ],
        fallbacks=["away"],
        capabilities=[route_pb2.Route.chat, route_pb2.Route.code_generation],
        max_tokens=4096,
        prices=route_pb2.Prices(input_token="0.000002"),
        resilience=route_pb2.Resilience(max_attempts=2, retry_statuses=[500, 503]),
        balancing=route_pb2.Balancing(affinity=route_pb2.Balancing.prefix, prefix_bytes=256),
        strategies=[route_pb2.Route.circuit_breaker, route_pb2.Route.graceful_degradation],
        degraded_answer="sorry",
    )
    assert (made.balancing.affinity, made.balancing.prefix_bytes) == (route_pb2.Balancing.prefix, 256)
    assert (made.version, made.visibility, made.owner.org_id) == (1, route_pb2.Route.organization, "org-a")
    assert [(each.name, each.provider, each.weight) for each in made.targets] == [
        ("tiny", Target.internal, 90),
        ("away", Target.openai_compatible, 0),
    ]
    assert (made.targets[1].base_url, made.targets[1].credential_header) == ("https://llm.example/v1", "api-key")
    for reference in ("fast", made.route_id):
        found = await rooms.routes.GetRoute(pb.GetRouteRequest(route_id=reference), metadata=EDITOR)
        assert found.route == made
    listed = await rooms.routes.ListRoutes(pb.ListRoutesRequest(), metadata=EDITOR)
    assert list(listed.routes) == [made]


async def test_a_change_is_made_to_the_version_it_was_meant_for(rooms: Rooms) -> None:
    await create(rooms, aliases=["quick"])
    after = await update(rooms, version=1, max_tokens=100)
    assert (after.version, after.max_tokens, list(after.aliases)) == (2, 100, ["quick"])
    error = await refusal(update(rooms, version=1, max_tokens=200))
    assert (error.reason, error.metadata["version"]) == ("ROUTE_CHANGED", "2")
    assert list((await update(rooms, "aliases")).aliases) == []
    assert (await update(rooms, max_tokens=100)).version == 3
    assert (await refusal(update(rooms, "owner"))).reason == "INVALID_REQUEST"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": "no name"}, "route.name"),
    ({"aliases": ["fast"]}, "route.aliases[0]"),
    ({"targets": []}, "route.targets"),
    ({"targets": [Target(model="tiny")]}, "route.targets"),
    ({"targets": [Target(model="tiny", weight=1), Target(model="tiny")]}, "route.targets[0].name"),
    ({"fallbacks": ["nobody"]}, "route.fallbacks[0]"),
    ({"prices": route_pb2.Prices(output_token="-1")}, "route.prices.output_token"),
    ({"targets": [Target(model="g", weight=1, provider=Target.openai_compatible)]}, "route.targets[0].base_url"),
    ({"targets": [Target(model="g", weight=1, base_url="https://a.example")]}, "route.targets[0].base_url"),
    ({"targets": [Target(model="g", weight=1, mirror_percent=5)]}, "route.targets[0].mirror_percent"),
    ({"strategies": [route_pb2.Route.fallback_service]}, "route.strategies[0]"),
    ({"strategies": [route_pb2.Route.graceful_degradation]}, "route.strategies[0]"),
    ({"targets": [Target(model="g", weight=1, credential_header="api-key")]}, "route.targets[0].credential_header"),
    (
        {"targets": [Target(model="g", weight=1, provider=Target.openai, credential_header="cookie")]},
        "route.targets[0].credential_header",
    ),
]


async def test_what_cannot_be_served_is_refused_and_the_field_is_named(rooms: Rooms) -> None:
    for fields, at_fault in WRONG:
        error = await refusal(create(rooms, **fields))
        assert (error.reason, error.violations[0].field) == ("INVALID_REQUEST", at_fault)
    assert (await rooms.routes.ListRoutes(pb.ListRoutesRequest(), metadata=EDITOR)).routes == []


async def test_a_name_belongs_to_one_route_of_an_organisation(rooms: Rooms) -> None:
    await create(rooms, aliases=["quick"])
    error = await refusal(create(rooms, "other", aliases=["quick"]))
    assert (error.reason, error.metadata["names"]) == ("ROUTE_NAME_TAKEN", "quick")
    await create(rooms, "fast", by=STRANGER)
    await rooms.routes.DeleteRoute(pb.DeleteRouteRequest(route_id="fast"), metadata=EDITOR)
    await create(rooms, "other", aliases=["quick"])


async def test_routes_of_another_organisation_do_not_exist(rooms: Rooms) -> None:
    made = await create(rooms)
    for call in (
        rooms.routes.GetRoute(pb.GetRouteRequest(route_id=made.route_id), metadata=STRANGER),
        rooms.routes.DeleteRoute(pb.DeleteRouteRequest(route_id="fast"), metadata=STRANGER),
        rooms.routes.UpdateRoute(pb.UpdateRouteRequest(route_id="fast", route=wish()), metadata=STRANGER),
    ):
        assert (await refusal(call)).reason == "ROUTE_NOT_FOUND"
    assert (await rooms.routes.ListRoutes(pb.ListRoutesRequest(), metadata=STRANGER)).routes == []


async def test_only_universe_roles_show_a_route_to_every_organisation(rooms: Rooms) -> None:
    error = await refusal(create(rooms, visibility=route_pb2.Route.universe))
    assert error.reason == "PERMISSION_DENIED"
    made = await create(rooms, by=ADMIN, visibility=route_pb2.Route.universe)
    assert made.visibility == route_pb2.Route.universe


async def test_a_repeated_create_answers_the_first_ones_route(rooms: Rooms) -> None:
    request = pb.CreateRouteRequest(route=wish(), request_id="once")
    first = await rooms.routes.CreateRoute(request, metadata=EDITOR)
    assert await rooms.routes.CreateRoute(request, metadata=EDITOR) == first
    request.route.max_tokens = 5
    assert (await refusal(rooms.routes.CreateRoute(request, metadata=EDITOR))).reason == "REQUEST_ID_REUSED"


async def test_whoever_routes_hears_of_every_change_and_so_does_the_world(rooms: Rooms) -> None:
    call = rooms.replicas.WatchReplicas(deployments_pb.WatchReplicasRequest(), metadata=ROUTER)
    assert await told_routes(call) == []
    made = await create(rooms)
    assert await told_routes(call) == [made]
    changed = await update(rooms, max_tokens=7)
    assert await told_routes(call) == [changed]
    for _ in range(2):
        await rooms.routes.DeleteRoute(pb.DeleteRouteRequest(route_id=made.route_id), metadata=EDITOR)
    assert await told_routes(call) == []
    call.cancel()
    told = await rooms.events("system.routeChanged")
    assert [(each["key"], each["route"]["version"]) for each in told] == [(made.route_id, n) for n in (1, 2, 3)]


async def test_a_refusal_that_the_gateway_reports_becomes_an_event_and_users_report_none(rooms: Rooms) -> None:
    report = alert_service_pb2.ReportRefusalRequest(subject="Envoy configuration of type Cluster", reason="no such CA")
    async with open_channel(rooms.address) as channel:
        stub = RoutingAlertServiceStub(channel)
        await stub.ReportRefusal(report, metadata=ROUTER)
        assert (await refusal(stub.ReportRefusal(report, metadata=EDITOR))).reason == "PERMISSION_DENIED"
    (told,) = await rooms.events("system.routingRefused")
    assert (told["subject"], told["reason"], told["reportedBy"]) == (
        report.subject, report.reason, "inference_router",
    )  # fmt: skip
