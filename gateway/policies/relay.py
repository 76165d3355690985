"""The way to targets that must be asked in their own words.

A second attempt goes to another target than the request was written for. Such a target is an endpoint at this internal
listener, with its cluster's name as endpoint id; the listener names the model as the target knows it and sends the
request on. It sees nothing but the requests that need it.
"""

from collections.abc import Sequence

from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from xds.core.v3 import extension_pb2

from gateway.edge.counting import ANSWERED, NOTES
from gateway.edge.filters import BODY, MESSAGES_TARGET, body_filter, enabled, messages_target_filter
from gateway.edge.messages import message, typed
from gateway.models.clusters import SUBSET
from gateway.models.context import AFFINITY, body_context
from gateway.models.lookup import BODY_LIMIT, action, tree
from gateway.models.memo import Memo
from gateway.policies.clusters import RELAY, clusters, direct, relayed
from gateway.policies.table import PolicyRoute, PolicyTarget

Route = route_components_pb2.Route
# Only this listener sets it: clients' x-aiops- headers stay out.
WANTED = "x-aiops-wanted"
# What is between clients and the platform alone.
_OURS = (
    "x-aiops-call",
    # What is compressed cannot be counted.
    "accept-encoding",
    AFFINITY,
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
    "x-envoy-original-path",
    "cookie",
)


def relay_listener() -> listener_pb2.Listener:
    """The internal listener."""
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=RELAY,
        rds={"route_config_name": RELAY, "config_source": {"ads": {}, "resource_api_version": "V3"}},
        early_header_mutation_extensions=[_named()],
        http_filters=[body_filter(), messages_target_filter(), _router()],
        server_header_transformation="PASS_THROUGH",
        generate_request_id=False,
        skip_xff_append=True,
        # The outer listener and route set the limits.
        max_request_headers_kb=96,
        stream_idle_timeout="0s",
        common_http_protocol_options={"max_headers_count": 200},
    )
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return message(
        listener_pb2.Listener, {"name": RELAY, "internal_listener": {}, "filter_chains": [{"filters": [network]}]}
    )


class RelayTable:
    """Renders where the listener sends requests. What is the same as the last time is not rendered again."""

    def __init__(self) -> None:
        self._entries = Memo(_entries)

    def render(self, policies: Sequence[PolicyRoute]) -> route_pb2.RouteConfiguration:
        """The whole configuration, by the target that a request is for."""
        configuration = route_pb2.RouteConfiguration(name=RELAY)
        configuration.virtual_hosts.add(name=RELAY, domains=["*"])
        nowhere = message(route_components_pb2.Route, {"match": {"prefix": "/"}, "direct_response": {"status": 503}})
        matcher = tree(WANTED, [nowhere])
        by_target = matcher.matcher_tree.exact_match_map.map
        by_target["-"].CopyFrom(matcher.on_no_match)
        for _, entries in self._entries.all(policies):
            for name, leads_to in entries.items():
                by_target[name].action.CopyFrom(leads_to)
        configuration.virtual_hosts[0].matcher.CopyFrom(matcher)
        return configuration


def _entries(policy: PolicyRoute) -> dict[str, extension_pb2.TypedExtensionConfig]:
    known = {cluster.name for cluster in clusters(policy).values() if cluster.relayed}
    found = {relayed(policy, target): target for target in policy.targets}
    return {name: action([_route(policy, target)]) for name, target in found.items() if name in known}


def _route(policy: PolicyRoute, target: PolicyTarget) -> route_components_pb2.Route:
    route = route_components_pb2.Route()
    route.match.prefix = "/"
    route.route.cluster = direct(policy, target)
    route.route.timeout.SetInParent()
    route.route.idle_timeout.SetInParent()
    route.request_body_buffer_limit.value = BODY_LIMIT
    outside = target.external
    if outside is not None:
        route.match.prefix = "/v1/"
        route.route.prefix_rewrite = f"{outside.path}/"
        route.route.host_rewrite_literal = _host(outside.host, outside.port, tls=outside.tls)
        route.request_headers_to_remove.extend(_OURS)
        if outside.messages:
            route.MergeFrom(message(Route, {"typed_per_filter_config": enabled([MESSAGES_TARGET])}))
    if target.serving is not None and target.serving.balancing is not None:
        route.route.hash_policy.add().header.header_name = AFFINITY
    if target.serving is not None and target.serving.sleep is not None:
        route.route.auto_host_rewrite.value = True
    route.request_headers_to_remove.append(WANTED)
    _tell_who_answers(route)
    context = body_context(target.model, rename=target.model)
    if context is not None:
        route.typed_per_filter_config[BODY].CopyFrom(context)
    return route


def _tell_who_answers(route: route_components_pb2.Route) -> None:
    """The outer listener, which counts, sees only this one behind its endpoint."""
    for key, namespace in (("deployment", NOTES), ("instance", SUBSET)):
        option = route.response_headers_to_add.add(append_action="OVERWRITE_IF_EXISTS_OR_ADD")
        option.header.key, option.header.value = ANSWERED[key], f"%UPSTREAM_METADATA({namespace}:{key})%"


def _host(name: str, port: int, *, tls: bool) -> str:
    return name if port == (443 if tls else 80) else f"{name}:{port}"


def _named() -> dict[str, object]:
    named = {
        "header": {"key": WANTED, "value": "%DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID%"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    config = typed(
        "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation", mutations=[{"append": named}]
    )
    return {"name": "envoy.http.early_header_mutation.header_mutation", "typed_config": config}


def _router() -> dict[str, object]:
    config = typed("envoy.extensions.filters.http.router.v3.Router", suppress_envoy_headers=True)
    return {"name": "envoy.filters.http.router", "typed_config": config}
