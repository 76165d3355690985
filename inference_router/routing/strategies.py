"""What is done when a target fails, by name: the fields of a route's resilience that each strategy sets."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from aiops.routing.v1 import route_pb2

NOTHING: Mapping[str, int] = MappingProxyType({})
DEFAULTS: Mapping[int, Mapping[str, int]] = MappingProxyType(
    {
        # Envoy's pauses grow twofold and are drawn at random up to that.
        route_pb2.Route.retry_exponential: {"max_attempts": 3, "base_delay_ms": 1_000, "max_delay_ms": 60_000},
        route_pb2.Route.circuit_breaker: {"failure_threshold": 5, "recovery_timeout_ms": 30_000},
        route_pb2.Route.fallback_service: {"first_byte_timeout_ms": 5_000},
        # What is answered then is the route's own.
        route_pb2.Route.graceful_degradation: NOTHING,
    }
)


def defaults_of(strategies: Iterable[int]) -> dict[str, int]:
    """What the strategies set together. One that this version does not know sets nothing."""
    found: dict[str, int] = {}
    for strategy in strategies:
        found |= DEFAULTS.get(strategy, NOTHING)
    return found
