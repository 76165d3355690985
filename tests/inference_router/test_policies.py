"""What a route wishes for, as the table has it: strategies in numbers, targets of a replica set, copies."""

from dataclasses import asdict
from typing import Any

import pytest
from aiops.routing.v1 import route_pb2
from aiops.types.v1 import owner_pb2

from inference_router.routing.model import ModelRoute, Target
from inference_router.routing.policy import compiled
from inference_router.routing.policy_convert import policy_from_proto, policy_from_route, policy_to_proto

Wish = route_pb2.Route
DEFAULTS = {"max_attempts": 3, "base_delay_ms": 10, "max_delay_ms": 100, "first_byte_timeout_ms": 0}
BY_STRATEGY: list[tuple[list[Any], dict[str, int]]] = [
    ([], DEFAULTS),
    ([Wish.retry_exponential], {"max_attempts": 3, "base_delay_ms": 1000, "max_delay_ms": 60_000}),
    ([Wish.circuit_breaker], {"failure_threshold": 5, "recovery_timeout_ms": 30_000}),
    ([Wish.fallback_service], {**DEFAULTS, "first_byte_timeout_ms": 5000}),
    ([Wish.graceful_degradation], DEFAULTS),
    ([Wish.retry_exponential, Wish.fallback_service], {"base_delay_ms": 1000, "first_byte_timeout_ms": 5000}),
    ([77], DEFAULTS),
]


def a_route(*targets: route_pb2.RouteTarget, **fields: Any) -> route_pb2.Route:
    return Wish(route_id="route-1", owner=owner_pb2.Owner(org_id="acme"), name="fast", targets=targets, **fields)


@pytest.mark.parametrize(("strategies", "numbers"), BY_STRATEGY)
def test_strategies_have_numbers(strategies: list[Any], numbers: dict[str, int]) -> None:
    found = asdict(policy_from_route(a_route(strategies=strategies)).resilience)
    assert {name: found[name] for name in numbers} == numbers


def test_what_a_route_says_itself_stands_before_its_strategies() -> None:
    own = route_pb2.Resilience(max_attempts=2, first_byte_timeout_ms=100)
    every = [Wish.retry_exponential, Wish.circuit_breaker, Wish.fallback_service]
    found = policy_from_route(a_route(strategies=every, resilience=own)).resilience
    assert (found.max_attempts, found.base_delay_ms, found.first_byte_timeout_ms) == (2, 1000, 100)


def test_a_target_of_a_replica_set_has_that_sets_instances_and_copies_go_to_live_ones() -> None:
    def instance(name: str, of: str) -> Target:
        return Target(name, name, "n", "10.0.0.1", 8001, "/v1/chat/completions", 1, member_of=of)

    live = ModelRoute("acme", "tiny", (instance("d1", "set-1"), instance("d2", "set-2"), instance("d3", "")), (), 1.0)
    targets = [
        route_pb2.RouteTarget(name="old", model="tiny", weight=1, replica_set_id="set-1"),
        route_pb2.RouteTarget(name="new", model="tiny", replica_set_id="set-2", mirror_percent=5),
        route_pb2.RouteTarget(name="gone", model="tiny", replica_set_id="set-3", mirror_percent=5),
        route_pb2.RouteTarget(name="idle", model="tiny"),
    ]
    route = compiled(policy_from_route(a_route(*targets, degraded_answer="sorry")), [live] * 4)
    assert {each.name: [one.deployment_id for one in each.instances] for each in route.targets} == {
        "old": ["d1"],
        "new": ["d2"],
    }
    assert policy_from_proto(policy_to_proto(route)) == route
    assert (route.targets[1].mirror_percent, route.degraded_answer) == (5, "sorry")
