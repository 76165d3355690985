"""Copies of requests for targets that answer nobody: sent on by a listener inside Envoy that also counts them."""

from pathlib import Path

from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2

from gateway.edge import counting
from gateway.edge.filters import body_filter, messages_target_filter
from gateway.edge.messages import HTTP, message, typed
from gateway.policies.clusters import MIRRORS, mirrored
from gateway.policies.relay import inside_listener, target_route
from gateway.policies.table import PolicyRoute

Mirroring = route_components_pb2.RouteAction.RequestMirrorPolicy
# What is noted of the request, told to the listener inside in headers that no client and no target sees.
_TOLD = {key: header.replace("x-aiops-", "x-aiops-mirrored-") for key, header in counting.CLAIMS.items()}
_TOLD["model"] = "x-aiops-mirrored-model"


def mirror_policies(policy: PolicyRoute) -> list[route_components_pb2.RouteAction.RequestMirrorPolicy]:
    """Who is sent copies of the policy's requests, and of how many."""
    told = [
        {
            "append": {
                "header": {"key": header, "value": f"%DYNAMIC_METADATA({counting.NOTES}:{key})%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        }
        for key, header in _TOLD.items()
    ]
    return [
        message(
            Mirroring,
            {
                "cluster": mirrored(policy, target),
                "runtime_fraction": {"default_value": {"numerator": target.mirror_percent, "denominator": "HUNDRED"}},
                "disable_shadow_host_suffix_append": True,
                "request_headers_mutations": told,
            },
        )
        for target in policy.mirrors
    ]


def mirror_listener(journal: Path | None) -> listener_pb2.Listener:
    """The internal listener; what it sends on is told in the journal as mirrored."""
    filters = [_noted(), body_filter(), messages_target_filter(), *_counted()]
    logs = [counting.access_log(journal, mirrored="true")] if journal else []
    return inside_listener(MIRRORS, filters, access_log=logs)


def copies(policy: PolicyRoute) -> dict[str, route_components_pb2.Route]:
    """Where the listener sends copies of a policy's requests, by the cluster that leads to it."""
    wanted = {}
    for target in policy.mirrors:
        route = target_route(policy, target)
        route.request_headers_to_remove.extend(_TOLD.values())
        wanted[mirrored(policy, target)] = route
    return wanted


def _noted() -> dict[str, object]:
    noted = [
        {
            "header": header,
            "on_header_present": {"metadata_namespace": counting.NOTES, "key": key, "type": "STRING"},
        }
        for key, header in _TOLD.items()
    ]
    return {"name": counting.CALLER, "typed_config": typed(HTTP + "header_to_metadata.v3.Config", request_rules=noted)}


def _counted() -> list[dict[str, object]]:
    return [
        {"name": counting.COUNTS, "typed_config": counting.counts()},
        {"name": counting.STREAM_COUNTS, "typed_config": counting.stream_counts()},
    ]
