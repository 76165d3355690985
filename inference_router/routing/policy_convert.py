"""Routes by policy from what the controller tells, to messages of the routing table, and back."""

from collections.abc import Mapping
from dataclasses import asdict, fields

from aiops.routing.v1 import route_pb2
from aiops.routing.v1 import routing_service_pb2 as pb

from inference_router.routing.policy import (
    Balancing,
    External,
    PolicyRoute,
    PolicyTarget,
    Prices,
    Resilience,
    resilience_of,
)
from inference_router.routing.strategies import NOTHING, defaults_of
from inference_router.routing.target_convert import (
    refused_from_proto,
    refused_to_proto,
    sleep_from_proto,
    sleep_to_proto,
    target_from_proto,
    target_to_proto,
)

# Where providers are when nothing else is said.
_BASE_URLS = {
    route_pb2.RouteTarget.openai: "https://api.openai.com/v1",
    route_pb2.RouteTarget.anthropic: "https://api.anthropic.com/v1",
}


def policy_from_route(message: route_pb2.Route) -> PolicyRoute:
    """A route as the controller tells it."""
    return PolicyRoute(
        route_id=message.route_id,
        org_id=message.owner.org_id,
        universe=message.visibility == route_pb2.Route.universe,
        names=(message.name, *message.aliases),
        targets=tuple(_wanted(target) for target in message.targets),
        fallbacks=tuple(message.fallbacks),
        created=message.created_at.seconds,
        resilience=_resilience(message.resilience, defaults_of(message.strategies)),
        prices=_prices(message.prices),
        balancing=_balancing(message.balancing),
        degraded_answer=message.degraded_answer,
    )


def policy_to_proto(policy: PolicyRoute) -> pb.PolicyRoute:
    """A route of the table."""
    return pb.PolicyRoute(
        route_id=policy.route_id,
        org_id=policy.org_id,
        universe=policy.universe,
        names=policy.names,
        targets=[_target_to_proto(target) for target in policy.targets],
        fallbacks=policy.fallbacks,
        resilience=route_pb2.Resilience(**asdict(policy.resilience)),
        refused_fields=refused_to_proto(policy.refused_fields),
        balancing=_balancing_to_proto(policy.balancing),
        created=policy.created,
        prices=route_pb2.Prices(**asdict(policy.prices)),
        degraded_answer=policy.degraded_answer,
    )


def policy_from_proto(message: pb.PolicyRoute) -> PolicyRoute:
    """A route of the table."""
    return PolicyRoute(
        route_id=message.route_id,
        org_id=message.org_id,
        universe=message.universe,
        names=tuple(message.names),
        targets=tuple(_target_from_proto(target) for target in message.targets),
        fallbacks=tuple(message.fallbacks),
        created=message.created,
        resilience=_resilience(message.resilience),
        balancing=_balancing(message.balancing),
        refused_fields=refused_from_proto(message.refused_fields),
        prices=_prices(message.prices),
        degraded_answer=message.degraded_answer,
    )


def _prices(message: route_pb2.Prices) -> Prices:
    return Prices(message.input_token, message.output_token, message.cached_token)


def _resilience(message: route_pb2.Resilience, otherwise: Mapping[str, int] = NOTHING) -> Resilience:
    asked = {each.name: getattr(message, each.name) or otherwise.get(each.name, 0) for each in fields(Resilience)}
    return resilience_of({**asked, "retry_statuses": tuple(message.retry_statuses)})


def _balancing(message: route_pb2.Balancing) -> Balancing:
    asked = route_pb2.Balancing.Affinity.Name(message.affinity)
    affinity = asked if message.affinity in (route_pb2.Balancing.session, route_pb2.Balancing.prefix) else ""
    return Balancing(affinity, message.prefix_bytes or 1024, message.overload_percent or 150, message.by_load)


def _balancing_to_proto(balancing: Balancing) -> route_pb2.Balancing:
    return route_pb2.Balancing(
        affinity=route_pb2.Balancing.Affinity.Value(balancing.affinity or "none"),
        prefix_bytes=balancing.prefix_bytes,
        overload_percent=balancing.overload_percent,
        by_load=balancing.by_load,
    )


def _wanted(target: route_pb2.RouteTarget) -> PolicyTarget:
    external = None
    if target.provider not in (route_pb2.RouteTarget.internal, route_pb2.RouteTarget.PROVIDER_UNSPECIFIED):
        base_url = target.base_url or _BASE_URLS.get(target.provider, "")
        messages = target.provider == route_pb2.RouteTarget.anthropic
        header = target.credential_header or ("x-api-key" if messages else "")
        stream_usage = target.stream_usage or target.provider == route_pb2.RouteTarget.openai
        external = External(base_url, target.credential_id, target.ca_pem, header, messages, stream_usage)
    return PolicyTarget(
        target.name,
        target.weight,
        target.model,
        target.deployment_id,
        external=external,
        mirror_percent=target.mirror_percent,
        replica_set_id=target.replica_set_id,
    )


def _target_to_proto(target: PolicyTarget) -> pb.PolicyTarget:
    message = pb.PolicyTarget(
        name=target.name,
        weight=target.weight,
        model=target.model,
        instances=[target_to_proto(each) for each in target.instances],
        sleep=sleep_to_proto(target.sleep),
        mirror_percent=target.mirror_percent,
    )
    if target.external is not None:
        message.external.CopyFrom(_external_to_proto(target.external))
    return message


def _external_to_proto(outside: External) -> pb.External:
    return pb.External(
        base_url=outside.base_url,
        credential_id=outside.credential_id,
        ca_pem=outside.ca_pem,
        credential_header=outside.credential_header,
        protocol=pb.External.messages if outside.messages else pb.External.chat,
        stream_usage=outside.stream_usage,
    )


def _external_from_proto(message: pb.External) -> External:
    speaks_messages = message.protocol == pb.External.messages
    return External(
        message.base_url,
        message.credential_id,
        message.ca_pem,
        message.credential_header,
        speaks_messages,
        message.stream_usage,
    )


def _target_from_proto(message: pb.PolicyTarget) -> PolicyTarget:
    return PolicyTarget(
        name=message.name,
        weight=message.weight,
        model=message.model,
        instances=tuple(target_from_proto(each) for each in message.instances),
        external=_external_from_proto(message.external) if message.HasField("external") else None,
        sleep=sleep_from_proto(message.sleep) if message.HasField("sleep") else None,
        mirror_percent=message.mirror_percent,
    )
