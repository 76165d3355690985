"""The way to targets that must be asked in their own words.

A second attempt goes to another target than the request was written for. Such a target is an endpoint at this internal
listener, with its cluster's name as endpoint id; the listener names the model as the target knows it and sends the
request on. It sees nothing but the requests that need it.
"""

import json
from collections.abc import Callable, Mapping, Sequence

from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from xds.core.v3 import extension_pb2

from gateway.edge.counting import ANSWERED, NOTES
from gateway.edge.errors import openai_error
from gateway.edge.filters import (
    BODY,
    FIXED_ANSWER,
    MESSAGES_TARGET,
    body_filter,
    enabled,
    fixed_answer_filter,
    messages_target_filter,
)
from gateway.edge.messages import message, typed
from gateway.edge.routes import direct as direct_response
from gateway.models.clusters import SUBSET
from gateway.models.context import AFFINITY, body_context, fixed_answer_context
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
    return inside_listener(RELAY, [fixed_answer_filter(), body_filter(), messages_target_filter()])


def inside_listener(name: str, filters: Sequence[dict[str, object]], **more: object) -> listener_pb2.Listener:
    """A listener inside Envoy that sends requests on by the endpoint id that they came by."""
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        rds={"route_config_name": name, "config_source": {"ads": {}, "resource_api_version": "V3"}},
        early_header_mutation_extensions=[_named()],
        http_filters=[*filters, _router()],
        server_header_transformation="PASS_THROUGH",
        generate_request_id=False,
        skip_xff_append=True,
        # The outer listener and route set the limits.
        max_request_headers_kb=96,
        stream_idle_timeout="0s",
        common_http_protocol_options={"max_headers_count": 200},
        **more,
    )
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return message(
        listener_pb2.Listener, {"name": name, "internal_listener": {}, "filter_chains": [{"filters": [network]}]}
    )


class InsideTable:
    """Renders where a listener inside Envoy sends requests. What is the same as the last time is not rendered again."""

    def __init__(self, name: str, build: Callable[[PolicyRoute], Mapping[str, route_components_pb2.Route]]) -> None:
        """`build` answers a policy's routes by the endpoint ids that they are for."""
        self._name = name
        self._entries = Memo[PolicyRoute, dict[str, extension_pb2.TypedExtensionConfig]](
            lambda policy: {endpoint_id: action([route]) for endpoint_id, route in build(policy).items()}
        )

    def render(self, policies: Sequence[PolicyRoute]) -> route_pb2.RouteConfiguration:
        """The whole configuration, by the target that a request is for."""
        configuration = route_pb2.RouteConfiguration(name=self._name)
        configuration.virtual_hosts.add(name=self._name, domains=["*"])
        nowhere = message(Route, {"match": {"prefix": "/"}, "direct_response": {"status": 503}})
        matcher = tree(WANTED, [nowhere])
        by_target = matcher.matcher_tree.exact_match_map.map
        by_target["-"].CopyFrom(matcher.on_no_match)
        for _, entries in self._entries.all(policies):
            for endpoint_id, leads_to in entries.items():
                by_target[endpoint_id].action.CopyFrom(leads_to)
        configuration.virtual_hosts[0].matcher.CopyFrom(matcher)
        return configuration


def relays(policy: PolicyRoute) -> dict[str, route_components_pb2.Route]:
    """What the listener of this module does for a policy, by the cluster that leads to it."""
    known = {cluster.name for cluster in clusters(policy).values() if cluster.relayed}
    found = {relayed(policy, target): target for target in policy.targets}
    return {
        name: _fixed(target) if target.fixed else target_route(policy, target)
        for name, target in found.items()
        if name in known
    }


def _fixed(target: PolicyTarget) -> route_components_pb2.Route:
    """Answers by itself; what it cannot answer is refused."""
    body = json.dumps(openai_error("no target can answer now; try again later", "unavailable", "model", "server_error"))
    route = message(Route, direct_response({"prefix": "/"}, 503, body, "application/json"))
    route.request_body_buffer_limit.value = BODY_LIMIT
    route.typed_per_filter_config[FIXED_ANSWER].CopyFrom(fixed_answer_context(target.model, target.fixed))
    return route


def target_route(policy: PolicyRoute, target: PolicyTarget) -> route_components_pb2.Route:
    """Sends a request on, written for its target."""
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
    context = body_context(target.model, rename=target.model, plain=not target.tells_usage)
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
