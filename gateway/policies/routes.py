"""What the names of a policy lead to."""

import json
from datetime import timedelta

from envoy.config.route.v3 import route_components_pb2
from google.protobuf import any_pb2, duration_pb2

from gateway.edge.counting import NOTES
from gateway.edge.errors import openai_error
from gateway.edge.filters import BODY
from gateway.edge.limits import NAME, ROUTE, STREAM_USAGE
from gateway.edge.messages import message, typed
from gateway.edge.routes import direct as direct_response
from gateway.models.context import AFFINITY, body_context
from gateway.models.lookup import BODY_LIMIT
from gateway.models.sleep import AWAKE, SENT_ON_AT_MOST
from gateway.policies.clusters import TARGET, direct, entrance, way
from gateway.policies.mirrors import mirror_policies
from gateway.policies.table import PolicyRoute, PolicyTarget
from gateway.tunnels.relay import UNREACHED
from gateway.usage.record import PRICES

# Which target answered, and whether it was another one than the request was for.
ANSWERED_BY, DEGRADED = "x-aiops-target", "x-aiops-degraded"
# What a target can no longer answer. A stream that has begun is never begun again elsewhere: Envoy retries nothing
# whose answer is on its way to the client.
RETRIED = "connect-failure,refused-stream,reset,reset-before-request,retriable-headers,retriable-status-codes"
PREVIOUS_HOSTS = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"


def policy_route(policy: PolicyRoute, idle: duration_pb2.Duration) -> route_components_pb2.Route:
    """Where a request for one of the policy's names goes."""
    if not policy.firsts:
        return _nobody(policy)
    route = route_components_pb2.Route()
    route.match.prefix = "/"
    # Whichever of its names was sent, quotas know it by the first.
    route.metadata.filter_metadata[ROUTE].update(
        {NAME: policy.names[0], STREAM_USAGE: policy.tells_usage, **_prices(policy)}
    )
    for first in policy.firsts:
        _add(route.route.weighted_clusters, policy, first)
    # No limit in time: an answer may be long. A connection on which nothing happens ends.
    route.route.timeout.SetInParent()
    route.route.idle_timeout.CopyFrom(_milliseconds(policy.resilience.idle_timeout_ms) or idle)
    if policy.sleepy:
        route.route.auto_host_rewrite.value = True
    if policy.balancing is not None:
        route.route.hash_policy.add().header.header_name = AFFINITY
    longest = max(len(policy.chain(first)) for first in policy.firsts)
    route.route.retry_policy.CopyFrom(_retries(policy, longest))
    route.route.request_mirror_policies.extend(mirror_policies(policy))
    # What is not kept cannot be sent again.
    route.request_body_buffer_limit.value = BODY_LIMIT
    # A user's token is none of a target's business.
    route.request_headers_to_remove.append("authorization")
    return route


def _prices(policy: PolicyRoute) -> dict[str, str]:
    """As the access log tells them: those when the request was let in."""
    return {name: price for name, price in zip(PRICES, policy.prices, strict=True) if price}


def _add(weighted: route_components_pb2.WeightedCluster, policy: PolicyRoute, first: PolicyTarget) -> None:
    cluster = weighted.clusters.add(name=entrance(policy, first))
    cluster.weight.value = first.weight
    context = _context(policy, first)
    if context is not None:
        cluster.typed_per_filter_config[BODY].CopyFrom(context)
    # A fixed answer is nobody's that a request could be for.
    degraded = "true" if first.fixed else _unless_by(first)
    for key, value in (
        (ANSWERED_BY, f"%UPSTREAM_METADATA({NOTES}:{TARGET})%"),
        (DEGRADED, degraded),
    ):
        option = cluster.response_headers_to_add.add(append_action="OVERWRITE_IF_EXISTS_OR_ADD")
        option.header.key, option.header.value = key, value


def _unless_by(first: PolicyTarget) -> str:
    other = f"xds.upstream_host_metadata.filter_metadata['{NOTES}']['{TARGET}'] != '{first.name}'"
    return f"%CEL({other} ? 'true' : '')%"


def _context(policy: PolicyRoute, first: PolicyTarget) -> any_pb2.Any | None:
    """The request is written for its first target here, unless the relay does that."""
    here = way(policy, first, first) == direct(policy, first)
    rename = first.model if here and set(policy.names) != {first.model} else ""
    return body_context(policy.names[0], policy.refused, rename, policy.balancing)


def _retries(policy: PolicyRoute, longest: int) -> route_components_pb2.RetryPolicy:
    wanted = policy.resilience
    content: dict[str, object] = {
        "retry_on": RETRIED,
        "retriable_status_codes": list(wanted.retry_statuses),
        "num_retries": max(wanted.max_attempts, longest) - 1 + (SENT_ON_AT_MOST if policy.sleepy else 0),
        "retriable_headers": [{"name": name, "present_match": True} for name in (UNREACHED, AWAKE)],
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": typed(PREVIOUS_HOSTS)}
        ],
        "host_selection_retry_max_attempts": 3,
        "retry_back_off": {
            "base_interval": f"{wanted.base_delay_ms / 1000}s",
            "max_interval": f"{wanted.max_delay_ms / 1000}s",
        },
    }
    if wanted.first_byte_timeout_ms:
        content["per_try_timeout"] = f"{wanted.first_byte_timeout_ms / 1000}s"
    return message(route_components_pb2.RetryPolicy, content)


def _nobody(policy: PolicyRoute) -> route_components_pb2.Route:
    text = f"no target of {policy.names[0]} can answer now; try again later"
    body = openai_error(text, "unavailable", "model", "server_error")
    return message(
        route_components_pb2.Route, direct_response({"prefix": "/"}, 503, json.dumps(body), "application/json")
    )


def _milliseconds(number: int) -> duration_pb2.Duration | None:
    if not number:
        return None
    duration = duration_pb2.Duration()
    duration.FromTimedelta(timedelta(milliseconds=number))
    return duration
