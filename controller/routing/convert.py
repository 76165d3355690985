"""Routes as protobuf messages and events, and wishes back."""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime

from aiops.routing.v1 import route_events_pb2 as events_pb
from aiops.routing.v1 import route_pb2 as pb
from aiops.routing.v1 import route_service_pb2 as service_pb
from aiops.types.v1 import owner_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from controller.events import Encoding, Encodings
from controller.routing.alerts import RoutingRefused
from controller.routing.balancing import Affinity, Balancing
from controller.routing.model import (
    Capability,
    Prices,
    Provider,
    Resilience,
    Route,
    RouteChanged,
    Strategy,
    Target,
    Visibility,
    Wish,
)
from mesh.clock import unix_ms
from mesh.errors import FieldViolation, InvalidRequestError

TOPIC = "aiops.routing.v1"
_PATHS = (
    *("name", "aliases", "targets", "fallbacks", "capabilities"),
    *("max_tokens", "prices", "visibility", "resilience", "balancing", "strategies", "degraded_answer"),
)


def route_to_proto(route: Route) -> pb.Route:
    """A route."""
    wish = route.wish
    return pb.Route(
        route_id=route.route_id,
        name=wish.name,
        aliases=wish.aliases,
        targets=[_target_to_proto(target) for target in wish.targets],
        fallbacks=wish.fallbacks,
        capabilities=[pb.Route.Capability.Value(each.value) for each in wish.capabilities],
        max_tokens=wish.max_tokens,
        prices=pb.Prices(**asdict(wish.prices)),
        visibility=pb.Route.Visibility.Value(wish.visibility.value),
        resilience=pb.Resilience(**asdict(wish.resilience)),
        balancing=_balancing_to_proto(wish.balancing),
        owner=owner_pb2.Owner(org_id=route.org_id, user_id=route.user_id),
        created_at=timestamp(route.created_at),
        changed_at=timestamp(route.changed_at),
        deleted_at=timestamp(route.deleted_at),
        is_deleted=route.deleted_at is not None,
        version=route.version,
        rollout_id=route.rollout_id,
        strategies=[pb.Route.Strategy.Value(each.value) for each in wish.strategies],
        degraded_answer=wish.degraded_answer,
    )


def wish_from_proto(wish: service_pb.RouteWish) -> Wish:
    """What is asked of a route; what is unspecified takes its default."""
    prices, resilience = wish.prices, wish.resilience
    return Wish(
        name=wish.name,
        aliases=tuple(wish.aliases),
        targets=tuple(_target_from_proto(target) for target in wish.targets),
        fallbacks=tuple(wish.fallbacks),
        capabilities=tuple(Capability(pb.Route.Capability.Name(each)) for each in wish.capabilities if each),
        max_tokens=wish.max_tokens,
        prices=Prices(prices.input_token, prices.output_token, prices.cached_token),
        visibility=Visibility(pb.Route.Visibility.Name(wish.visibility or pb.Route.organization)),
        resilience=Resilience(
            first_byte_timeout_ms=resilience.first_byte_timeout_ms,
            idle_timeout_ms=resilience.idle_timeout_ms,
            max_attempts=resilience.max_attempts,
            base_delay_ms=resilience.base_delay_ms,
            max_delay_ms=resilience.max_delay_ms,
            retry_budget_percent=resilience.retry_budget_percent,
            retry_statuses=tuple(resilience.retry_statuses),
            failure_threshold=resilience.failure_threshold,
            recovery_timeout_ms=resilience.recovery_timeout_ms,
            max_requests=resilience.max_requests,
        ),
        balancing=_balancing_from_proto(wish.balancing),
        strategies=tuple(Strategy(pb.Route.Strategy.Name(each)) for each in wish.strategies if each),
        degraded_answer=wish.degraded_answer,
    )


def change_from_proto(request: service_pb.UpdateRouteRequest) -> Callable[[Wish], Wish]:
    """What of a route changes: what the mask names, or without a mask whatever is set. InvalidRequestError."""
    named = set(request.update_mask.paths)
    if unknown := sorted(named - set(_PATHS)):
        raise InvalidRequestError(FieldViolation("update_mask", f"{unknown[0]} is none of {', '.join(_PATHS)}"))
    given = {field.name for field, _ in request.route.ListFields()}
    wanted = wish_from_proto(request.route)
    changes = {path: getattr(wanted, path) for path in named or given}
    return lambda before: replace(before, **changes)


def timestamp(moment: datetime | None) -> Timestamp | None:
    """A point in time; None where there is none."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def _balancing_to_proto(balancing: Balancing) -> pb.Balancing:
    affinity = pb.Balancing.Affinity.Value(balancing.affinity.value)
    return pb.Balancing(**{**asdict(balancing), "affinity": affinity})


def _balancing_from_proto(balancing: pb.Balancing) -> Balancing:
    affinity = Affinity(pb.Balancing.Affinity.Name(balancing.affinity or pb.Balancing.none))
    return Balancing(affinity, balancing.prefix_bytes, balancing.overload_percent, balancing.by_load)


def _target_to_proto(target: Target) -> pb.RouteTarget:
    return pb.RouteTarget(**{**asdict(target), "provider": pb.RouteTarget.Provider.Value(target.provider.value)})


def _target_from_proto(target: pb.RouteTarget) -> Target:
    return Target(
        name=target.name or target.model.rpartition("/")[2],
        model=target.model,
        provider=Provider(pb.RouteTarget.Provider.Name(target.provider or pb.RouteTarget.internal)),
        deployment_id=target.deployment_id,
        base_url=target.base_url.rstrip("/"),
        credential_id=target.credential_id,
        ca_pem=target.ca_pem,
        weight=target.weight,
        credential_header=target.credential_header,
        mirror_percent=target.mirror_percent,
        replica_set_id=target.replica_set_id,
        stream_usage=target.stream_usage,
    )


def _route_changed(event: RouteChanged) -> events_pb.RouteChanged:
    return events_pb.RouteChanged(
        type="system.routeChanged",
        route_id=event.route.route_id,
        route=route_to_proto(event.route),
        timestamp=unix_ms(event.at),
    )


def _refused(event: RoutingRefused) -> events_pb.RoutingRefused:
    return events_pb.RoutingRefused(
        type="system.routingRefused",
        subject=event.subject,
        reason=event.reason,
        reported_by=event.reported_by,
        timestamp=unix_ms(event.at),
    )


EVENTS: Encodings = {
    RouteChanged: Encoding("system.routeChanged", TOPIC, lambda event: str(event.route.route_id), _route_changed),
    RoutingRefused: Encoding("system.routingRefused", TOPIC, lambda event: str(event.reported_by), _refused),
}
