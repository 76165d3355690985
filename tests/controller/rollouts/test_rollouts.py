"""Rollouts are kept with every decision, lead their route alone, and go by what the ledger has seen."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from aiops.deployments.v1 import replica_set_service_pb2 as sets_pb
from aiops.routing.v1 import rollout_pb2, route_pb2
from aiops.routing.v1 import rollout_service_pb2 as pb
from aiops.routing.v1 import route_service_pb2 as routes_pb

from controller.deployments.model import DeploymentId
from controller.rollouts.decide import SETTLED
from controller.rollouts.reconcile import RolloutReconciler
from controller.usage.model import RequestUsage
from mesh.identity import OrgId
from tests.fakes.eventually import eventually
from tests.fixtures.iam import refusal
from tests.fixtures.registry import ADMIN, EDITOR, STRANGER, Metadata, Rooms

Target = route_pb2.RouteTarget
Rollout = rollout_pb2.Rollout
Action = rollout_pb2.RolloutDecision
NUMBERS = count()


def far(name: str, weight: int = 0) -> Target:
    """A target that is always there."""
    return Target(
        name=name, model=name, weight=weight, provider=Target.openai_compatible, base_url="https://llm.example/v1"
    )


async def a_route(rooms: Rooms, *targets: Target, name: str = "fast") -> route_pb2.Route:
    wish = routes_pb.RouteWish(name=name, targets=targets or (far("old", 1), far("new")))
    return (await rooms.routes.CreateRoute(routes_pb.CreateRouteRequest(route=wish), metadata=EDITOR)).route


async def create(rooms: Rooms, *weights: int, by: Metadata = EDITOR, **fields: Any) -> Rollout:
    spec = rollout_pb2.RolloutSpec(
        **{
            "route_id": "fast",
            "candidate": "new",
            "steps": [rollout_pb2.RolloutStep(weight=weight, hold_ms=1) for weight in weights],
            # However long a busy machine takes, what was seen is not too old.
            "limits": rollout_pb2.RolloutLimits(min_requests=5, silence_ms=3_600_000, window_ms=3_600_000),
            **fields,
        }
    )
    return (await rooms.rollouts.CreateRollout(pb.CreateRolloutRequest(spec=spec), metadata=by)).rollout


async def get(rooms: Rooms, rollout: Rollout, by: Metadata = EDITOR) -> Rollout:
    return (await rooms.rollouts.GetRollout(pb.GetRolloutRequest(rollout_id=rollout.rollout_id), metadata=by)).rollout


async def abort(rooms: Rooms, rollout: Rollout, by: Metadata = EDITOR) -> Rollout:
    request = pb.AbortRolloutRequest(rollout_id=rollout.rollout_id, reason="enough")
    return (await rooms.rollouts.AbortRollout(request, metadata=by)).rollout


async def weights(rooms: Rooms) -> dict[str, int]:
    route = (await rooms.routes.GetRoute(routes_pb.GetRouteRequest(route_id="fast"), metadata=EDITOR)).route
    return {target.name: target.weight for target in route.targets}


async def seen(rooms: Rooms, route: route_pb2.Route, name: str, times: int = 10, **more: Any) -> None:
    """The ledger hears of requests that begin as soon as they are counted."""
    began = datetime.now(UTC) + SETTLED
    usual: dict[str, Any] = {
        "org_id": OrgId("org-a"), "user_id": "user-1", "api_key_id": "", "model": "fast", "request_id": "",
        "deployment_id": DeploymentId(""), "endpoint": "/v1/chat/completions", "started_at": began, "duration_ms": 100,
        "first_byte_ms": 50, "status": 200, "streamed": False, "counted": True, "input_tokens": 1, "output_tokens": 1,
        "cached_tokens": 0, "request_bytes": 1, "response_bytes": 1, "attempts": 1, "flags": "", "target": name,
        "route_id": route.route_id, "intended_target": name,
    }  # fmt: skip
    told = [RequestUsage(**{**usual, "usage_id": f"rollout-{next(NUMBERS)}", **more}) for _ in range(times)]
    assert await rooms.ledger.enter(told) == times


@pytest.fixture
def reconciler(rooms: Rooms) -> RolloutReconciler:
    return RolloutReconciler(rooms.unit_of_work, rooms.hints)


async def test_a_good_candidate_is_promoted_and_every_decision_is_kept_with_what_it_was_made_by(
    rooms: Rooms, reconciler: RolloutReconciler
) -> None:
    route = await a_route(rooms)
    made = await create(rooms, 10, 50)
    assert (made.spec.stable, made.spec.limits.max_error_percent, made.status) == ("old", 10, Rollout.progressing)
    assert await weights(rooms) == {"old": 100, "new": 0}
    for expected in (10, 50, 100):
        await reconciler.look()
        # Without requests of both nothing more happens, however often it is looked.
        await reconciler.look()
        assert await weights(rooms) == {"old": 100 - expected, "new": expected}
        await seen(rooms, route, "old")
        await seen(rooms, route, "new")
    found = await get(rooms, made)
    assert (found.status, found.weight, found.step) == (Rollout.promoted, 100, 2)
    assert [each.action for each in found.decisions] == [Action.create, Action.advance, Action.advance, Action.promote]
    last = found.decisions[-1]
    assert (last.candidate.requests, last.candidate.failed, last.candidate.p95_ms) == (10, 0, 100)
    assert await reconciler.look() == 0
    (told,) = [each for each in await rooms.events("system.rolloutChanged") if each["rollout"]["status"] == "promoted"]
    assert told["rollout"]["decisions"][0]["action"] == "promote"
    listed = await rooms.rollouts.ListRollouts(pb.ListRolloutsRequest(route_id="fast"), metadata=EDITOR)
    assert [each.rollout_id for each in listed.rollouts] == [made.rollout_id]
    # The route is whoever changes it's again, and even now there is a way back.
    assert not (
        await rooms.routes.GetRoute(routes_pb.GetRouteRequest(route_id="fast"), metadata=EDITOR)
    ).route.rollout_id
    assert (await abort(rooms, made)).status == Rollout.aborted
    assert await weights(rooms) == {"old": 100, "new": 0}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"status": 500}, "10 of 10 requests of the candidate failed"),
    ({"status": 0, "flags": "DC"}, "10 of 10"),
    ({"flags": "UC"}, "10 of 10"),
    ({"target": "old", "degraded": True}, "10 of 10"),
    ({"duration_ms": 900}, "p50 latency is 900 ms beside 100 ms"),
]


async def test_a_bad_candidate_is_rolled_back_by_what_the_ledger_says(
    rooms: Rooms, reconciler: RolloutReconciler
) -> None:
    route = await a_route(rooms)
    for fault, why in BAD:
        made = await create(rooms, 10)
        await reconciler.look()
        await seen(rooms, route, "old")
        await seen(rooms, route, "new", **fault)
        await reconciler.look()
        found = await get(rooms, made)
        assert found.status == Rollout.rolled_back, found
        assert why in found.status_reason
        assert await weights(rooms) == {"old": 100, "new": 0}


async def test_copies_of_requests_and_requests_of_other_routes_are_no_evidence(
    rooms: Rooms, reconciler: RolloutReconciler
) -> None:
    route = await a_route(rooms)
    made = await create(rooms, 10)
    await reconciler.look()
    await seen(rooms, route, "new", status=500, mirrored=True)
    await seen(rooms, route, "new", status=500, route_id="route-of-others")
    # Begun before the candidate had its share.
    await seen(rooms, route, "new", status=500, started_at=datetime.now(UTC) - timedelta(seconds=1))
    await reconciler.look()
    assert (await get(rooms, made)).status == Rollout.progressing


async def test_a_rollout_leads_its_route_alone(rooms: Rooms, reconciler: RolloutReconciler) -> None:
    await a_route(rooms)
    made = await create(rooms, 10)
    assert (await refusal(create(rooms, 20))).reason == "ROUTE_IN_ROLLOUT"
    both = [far("old", 1), far("new", 1)]
    change = routes_pb.UpdateRouteRequest(route_id="fast", route=routes_pb.RouteWish(targets=both))
    assert (await refusal(rooms.routes.UpdateRoute(change, metadata=EDITOR))).reason == "ROUTE_IN_ROLLOUT"
    # Whatever else the route says may be changed.
    other = routes_pb.UpdateRouteRequest(route_id="fast", route=routes_pb.RouteWish(max_tokens=7))
    assert (await rooms.routes.UpdateRoute(other, metadata=EDITOR)).route.max_tokens == 7
    await abort(rooms, made)
    assert (await rooms.routes.UpdateRoute(change, metadata=EDITOR)).route.targets[1].weight == 1
    again = await create(rooms, 10, stable="old")
    assert (
        await refusal(rooms.rollouts.PauseRollout(pb.PauseRolloutRequest(rollout_id=made.rollout_id), metadata=EDITOR))
    ).reason == "ROLLOUT_ENDED"
    await rooms.routes.DeleteRoute(routes_pb.DeleteRouteRequest(route_id="fast"), metadata=EDITOR)
    await reconciler.look()
    found = await get(rooms, again)
    assert (found.status, found.status_reason) == (Rollout.rolled_back, "its route was deleted")


async def test_a_paused_rollout_rises_only_after_it_is_resumed(rooms: Rooms, reconciler: RolloutReconciler) -> None:
    await a_route(rooms)
    made = await create(rooms, 10)
    for _ in range(2):
        paused = await rooms.rollouts.PauseRollout(pb.PauseRolloutRequest(rollout_id=made.rollout_id), metadata=EDITOR)
        assert paused.rollout.status == Rollout.paused
    await reconciler.look()
    assert await weights(rooms) == {"old": 100, "new": 0}
    await rooms.rollouts.ResumeRollout(pb.ResumeRolloutRequest(rollout_id=made.rollout_id), metadata=EDITOR)
    await reconciler.look()
    assert await weights(rooms) == {"old": 90, "new": 10}
    actions = [each.action for each in (await get(rooms, made)).decisions]
    assert actions == [Action.create, Action.pause, Action.resume, Action.advance]


async def test_two_controllers_take_each_step_once(rooms: Rooms, reconciler: RolloutReconciler) -> None:
    route = await a_route(rooms)
    made = await create(rooms, 10, 20, 30)
    other = RolloutReconciler(rooms.unit_of_work, rooms.hints)
    for _ in range(4):
        await asyncio.gather(*(each.look() for each in (reconciler, other) * 3))
        for target in ("old", "new"):
            await seen(rooms, route, target)
    found = await get(rooms, made)
    assert found.status == Rollout.promoted
    assert [each.weight for each in found.decisions] == [0, 10, 20, 30, 100]


async def test_a_candidate_without_instances_gets_nothing(rooms: Rooms, reconciler: RolloutReconciler) -> None:
    await a_route(rooms, far("old", 1), Target(name="new", model="never-deployed"))
    made = await create(rooms, 10)
    await reconciler.look()
    found = await get(rooms, made)
    assert (found.weight, found.status_reason) == (0, "waits for an instance of new that may receive traffic")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"candidate": "nobody"}, "spec.candidate"),
    ({"stable": "nobody"}, "spec.stable"),
    ({"candidate": "old", "stable": "old"}, "spec.candidate"),
    ({"candidate": "spare", "stable": "new"}, "spec.route_id"),
    ({"steps": [rollout_pb2.RolloutStep(weight=weight) for weight in (10, 10)]}, "spec.steps[1].weight"),
]


async def test_what_cannot_be_rolled_out_is_refused_and_the_field_is_named(rooms: Rooms) -> None:
    await a_route(rooms, far("old", 1), far("new"), far("spare"))
    for fields, at_fault in WRONG:
        error = await refusal(create(rooms, **fields))
        assert (error.reason, error.violations[0].field) == ("INVALID_REQUEST", at_fault)
    assert (await refusal(create(rooms, route_id="unknown"))).reason == "ROUTE_NOT_FOUND"
    assert (await refusal(create(rooms, replica_set_id="unknown"))).reason == "REPLICA_SET_NOT_FOUND"


async def test_rollouts_of_another_organisation_do_not_exist(rooms: Rooms) -> None:
    await a_route(rooms)
    made = await create(rooms, 10)
    assert (await refusal(get(rooms, made, STRANGER))).reason == "ROLLOUT_NOT_FOUND"
    assert (await refusal(abort(rooms, made, STRANGER))).reason == "ROLLOUT_NOT_FOUND"
    assert not (await rooms.rollouts.ListRollouts(pb.ListRolloutsRequest(), metadata=STRANGER)).rollouts
    assert (await get(rooms, made, ADMIN)).rollout_id == made.rollout_id


async def test_after_a_rollback_the_candidates_replica_set_is_scaled_down(
    rooms: Rooms, reconciler: RolloutReconciler
) -> None:
    await rooms.import_model("tiny")
    wish = sets_pb.CreateReplicaSetRequest(model_id="tiny", replicas=1, name="next")
    made = (await rooms.sets.CreateReplicaSet(wish, metadata=EDITOR)).replica_set
    route = await a_route(rooms)
    rollout = await create(rooms, 10, replica_set_id="next")
    assert rollout.spec.replica_set_id == made.replica_set_id
    await reconciler.look()
    await seen(rooms, route, "new", status=500)
    await reconciler.look()
    assert (await get(rooms, rollout)).status == Rollout.rolling_back
    assert await weights(rooms) == {"old": 100, "new": 0}
    # The route is whoever changes it's again already, and what they say stays.
    both = routes_pb.UpdateRouteRequest(
        route_id="fast", route=routes_pb.RouteWish(targets=[far("old", 70), far("new", 30)])
    )
    await rooms.routes.UpdateRoute(both, metadata=EDITOR)

    async def is_over() -> bool:
        await reconciler.look()
        return (await get(rooms, rollout)).status == Rollout.rolled_back

    await eventually(is_over, 30)
    found = await rooms.sets.GetReplicaSet(
        sets_pb.GetReplicaSetRequest(replica_set_id=made.replica_set_id), metadata=EDITOR
    )
    assert found.replica_set.replicas == 0
    assert await weights(rooms) == {"old": 70, "new": 30}
