"""The public port's routes: the API's, and those of every organisation's models, found by name at constant cost."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Any

from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.type.matcher.v3 import http_inputs_pb2
from google.protobuf import any_pb2, duration_pb2
from xds.core.v3 import extension_pb2
from xds.type.matcher.v3 import matcher_pb2, string_pb2

from gateway.edge.errors import openai_error
from gateway.edge.filters import CHAT, INVALID, MISSING, REFUSALS, enabled
from gateway.edge.listener import NAME
from gateway.edge.messages import message, packed, typed
from gateway.edge.routes import direct, entry
from gateway.models.clusters import INSTANCE, SUBSET
from gateway.models.table import ModelRoute, RefusedField, Target

INPUT = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
ENDPOINTS = "^/v1/(chat/completions|completions|embeddings|responses)$"
BODY_LIMIT = 16 * 1024 * 1024
NAMES_SHOWN = 50
NO_MODEL = "the body names no model; send a JSON object with a 'model'"
# No organisation's id.
NOBODY = "-"
JSON = "application/json"
GET = {"name": ":method", "string_match": {"exact": "GET"}}
GRPC_CALL = {"name": "x-aiops-call", "string_match": {"prefix": "application/grpc"}}
# Only what cannot have reached an engine is tried again.
RETRY = {
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 3,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
        }
    ],
    "host_selection_retry_max_attempts": 3,
    "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.1s"},
}


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A model's own part: what its name leads to, and what each instance's path leads to."""

    by_name: extension_pb2.TypedExtensionConfig
    described: extension_pb2.TypedExtensionConfig
    instances: dict[str, extension_pb2.TypedExtensionConfig]


class RouteTable:
    """Renders the one RouteConfiguration; what the models do not change is rendered once."""

    def __init__(self, api: Iterable[dict[str, object]], cors: Sequence[str], idle: timedelta) -> None:
        self._idle = duration_pb2.Duration()
        self._idle.FromTimedelta(idle)
        self._base = message(route_pb2.RouteConfiguration, _configuration(cors))
        self._base.virtual_hosts[0].matcher.CopyFrom(_paths(list(api)))
        self._refusals: dict[tuple[str, tuple[RefusedField, ...]], any_pb2.Any] = {}
        self._rendered: dict[ModelRoute, _Rendered] = {}

    def render(self, models: Sequence[ModelRoute]) -> route_pb2.RouteConfiguration:
        """The whole configuration for these models. What is the same as the last time is not rendered again."""
        self._rendered = {model: self._rendered.get(model) or self._render(model) for model in models}
        configuration = route_pb2.RouteConfiguration()
        configuration.CopyFrom(self._base)
        paths = configuration.virtual_hosts[0].matcher.matcher_tree.prefix_match_map.map
        by_name = paths["/v1/"].matcher.matcher_tree.exact_match_map.map
        for model, rendered in self._rendered.items():
            by_name[model.key].action.CopyFrom(rendered.by_name)
            for path, instance in rendered.instances.items():
                by_org = paths[path].matcher
                if not by_org.HasField("matcher_tree"):
                    by_org.CopyFrom(_BY_ORG_OF_INSTANCE)
                by_org.matcher_tree.exact_match_map.map[model.org_id].action.CopyFrom(instance)
        unknown = paths["/v1/"].matcher.on_no_match.matcher.matcher_list.matchers[-1].on_match.matcher
        for org_id, mine in groupby(models, key=lambda model: model.org_id):
            known = list(mine)
            not_found = _unknown_model([model.model for model in known])
            _act(unknown.matcher_tree.exact_match_map.map[org_id], not_found)
            listed = _tree(":path", not_found)
            _act(listed.matcher_tree.exact_match_map.map["/v1/models"], [_model_list(known)])
            for model in known:
                described = self._rendered[model].described
                listed.matcher_tree.exact_match_map.map[f"/v1/models/{model.model}"].action.CopyFrom(described)
            paths["/v1/models"].matcher.matcher_tree.exact_match_map.map[org_id].matcher.CopyFrom(listed)
        return configuration

    def _render(self, model: ModelRoute) -> "_Rendered":
        by_name = route_components_pb2.Route()
        by_name.match.prefix = "/"
        self._lead_to(by_name, model)
        instances = {
            f"/models/{model.model}/{target.instance_id}/": _action(self._instance_routes(model, target))
            for target in model.targets
        }
        described = _answer({"prefix": "/", "headers": [GET]}, 200, _description(model))
        return _Rendered(_action([by_name]), _action([described]), instances)

    def _instance_routes(self, model: ModelRoute, target: Target) -> list[route_components_pb2.Route]:
        base = f"/models/{model.model}/{target.instance_id}/"
        inference, rest = route_components_pb2.Route(), route_components_pb2.Route()
        inference.match.path = base + "v1/inference"
        inference.route.prefix_rewrite = target.inference_path
        rest.match.prefix = base
        rest.route.prefix_rewrite = "/"
        for route in (inference, rest):
            self._lead_to(route, model)
            route.route.metadata_match.filter_metadata[SUBSET].update({INSTANCE: target.instance_id})
        return [inference, rest]

    def _lead_to(self, route: route_components_pb2.Route, model: ModelRoute) -> None:
        route.route.cluster = model.cluster
        route.route.timeout.SetInParent()
        route.route.idle_timeout.CopyFrom(self._idle)
        # A user's token is none of the engine's business.
        route.request_headers_to_remove.append("authorization")
        if model.refused:
            route.typed_per_filter_config[REFUSALS].CopyFrom(self._refusal(model))

    def _refusal(self, model: ModelRoute) -> any_pb2.Any:
        key = (model.model, model.refused)
        if key not in self._refusals:
            fields = [{"path": field.path, "harmless": list(field.harmless)} for field in model.refused]
            self._refusals[key] = packed(
                message(
                    lua_pb2.LuaPerRoute, {"name": REFUSALS, "filter_context": {"model": model.model, "fields": fields}}
                )
            )
        return self._refusals[key]


def _act(on_match: matcher_pb2.Matcher.OnMatch, routes: Sequence[route_components_pb2.Route]) -> None:
    on_match.action.CopyFrom(_action(routes))


def _action(routes: Sequence[route_components_pb2.Route]) -> extension_pb2.TypedExtensionConfig:
    chosen = routes[0] if len(routes) == 1 else route_components_pb2.RouteList(routes=routes)
    return extension_pb2.TypedExtensionConfig(name="route", typed_config=packed(chosen))


def _model_list(models: Sequence[ModelRoute]) -> route_components_pb2.Route:
    data = [_description(model) for model in models]
    return _answer({"prefix": "/", "headers": [GET]}, 200, {"object": "list", "data": data})


def _description(model: ModelRoute) -> dict[str, object]:
    return {"id": model.model, "object": "model", "created": model.created, "owned_by": model.org_id}


def _unknown_model(names: Sequence[str]) -> list[route_components_pb2.Route]:
    shown = ", ".join(names[:NAMES_SHOWN]) + (
        f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    )
    text = f"there is no such model; deployed are: {shown}" if names else "there is no such model; none is deployed yet"
    return _refuse(404, "model_not_found", text, "5")


def _refuse(status: int, code: str, text: str, grpc_status: str) -> list[route_components_pb2.Route]:
    header = {"header": {"key": "grpc-status", "value": grpc_status}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    plain = direct({"prefix": "/", "headers": [GRPC_CALL]}, status, text, "text/plain")
    plain["response_headers_to_add"] = [header]
    return [
        message(route_components_pb2.Route, plain),
        _answer({"prefix": "/"}, status, openai_error(text, code, "model")),
    ]


def _answer(
    match: dict[str, object], status: int, body: dict[str, object], **more: object
) -> route_components_pb2.Route:
    return message(route_components_pb2.Route, direct(match, status, json.dumps(body), JSON, **more))


def _by_org(otherwise: Sequence[route_components_pb2.Route]) -> matcher_pb2.Matcher:
    matcher = _tree("x-aiops-org", otherwise)
    # Envoy takes no empty map.
    matcher.matcher_tree.exact_match_map.map[NOBODY].CopyFrom(matcher.on_no_match)
    return matcher


def _tree(
    header: str, otherwise: Sequence[route_components_pb2.Route], kind: str = "exact_match_map"
) -> matcher_pb2.Matcher:
    matcher = matcher_pb2.Matcher()
    matcher.matcher_tree.input.name = header
    matcher.matcher_tree.input.typed_config.CopyFrom(packed(_input(header)))
    getattr(matcher.matcher_tree, kind).SetInParent()
    _act(matcher.on_no_match, otherwise)
    return matcher


def _input(header: str) -> http_inputs_pb2.HttpRequestHeaderMatchInput:
    return http_inputs_pb2.HttpRequestHeaderMatchInput(header_name=header)


def _configuration(cors: Sequence[str]) -> dict[str, object]:
    return {
        "name": NAME,
        "max_direct_response_body_size_bytes": 4 * 1024 * 1024,
        "virtual_hosts": [
            {
                "name": NAME,
                "domains": ["*"],
                "retry_policy": RETRY,
                "request_headers_to_remove": ["x-aiops-org", "x-aiops-token-id", "x-aiops-model", "x-aiops-route"],
                "response_headers_to_remove": ["x-aiops-engine-status"],
                "typed_per_filter_config": {"envoy.filters.http.cors": _cors(cors)},
            }
        ],
    }


def _paths(api: Sequence[dict[str, object]]) -> matcher_pb2.Matcher:
    """The outermost look-up: by the longest prefix of the path."""
    root = _tree(":path", [message(route_components_pb2.Route, route) for route in api], "prefix_match_map")
    paths = root.matcher_tree.prefix_match_map.map
    paths["/v1/"].matcher.CopyFrom(_by_model())
    nothing = _answer({"path": "/v1/models", "headers": [GET]}, 200, {"object": "list", "data": []})
    paths["/v1/models"].matcher.CopyFrom(_by_org([nothing, *_unknown_model([])]))
    return root


def _by_model() -> matcher_pb2.Matcher:
    """The model named in the body; before the body is read, the route that has it read."""
    matcher = _tree("x-aiops-route", _entry())
    _act(matcher.matcher_tree.exact_match_map.map[NOBODY], _entry())
    faults = matcher_pb2.Matcher()
    for header, value, text in (
        ("x-aiops-model", {"exact": MISSING}, NO_MODEL),
        ("x-aiops-route", {"suffix": "/"}, NO_MODEL),
        ("x-aiops-model", {"exact": INVALID}, "the body is no JSON object with a 'model' that is a string"),
    ):
        fault = faults.matcher_list.matchers.add()
        _when(fault.predicate, header, value)
        _act(fault.on_match, _refuse(400, "invalid_body", text, "3"))
    known = faults.matcher_list.matchers.add()
    _when(known.predicate, "x-aiops-model", {"safe_regex": {"regex": ".+", "google_re2": {}}})
    known.on_match.matcher.CopyFrom(_by_org(_unknown_model([])))
    _act(faults.on_no_match, _entry())
    matcher.on_no_match.matcher.CopyFrom(faults)
    return matcher


def _when(predicate: matcher_pb2.Matcher.MatcherList.Predicate, header: str, value: dict[str, Any]) -> None:
    single = predicate.single_predicate
    single.input.name = header
    single.input.typed_config.CopyFrom(packed(_input(header)))
    single.value_match.CopyFrom(message(string_pb2.StringMatcher, value))


def _entry() -> list[route_components_pb2.Route]:
    post = {"name": ":method", "string_match": {"exact": "POST"}}
    read = entry({"safe_regex": {"regex": ENDPOINTS}, "headers": [post]}, enabled(CHAT), BODY_LIMIT)
    return [message(route_components_pb2.Route, route) for route in (read, entry({"prefix": "/"}, {}, 0))]


def _cors(origins: Sequence[str]) -> dict[str, object]:
    allowed = [{"safe_regex": {"regex": ".*"}} if origin == "*" else {"exact": origin} for origin in origins]
    return typed(
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        allow_origin_string_match=allowed,
        allow_methods="GET, POST, PUT, PATCH, DELETE, OPTIONS",
        allow_headers="authorization, content-type, x-grpc-web, x-user-agent, grpc-timeout, x-request-id",
        expose_headers="grpc-status, grpc-message, grpc-status-details-bin, x-request-id",
        max_age="86400",
    )


_UNKNOWN_INSTANCE = [message(route_components_pb2.Route, entry({"prefix": "/"}, enabled([REFUSALS]), BODY_LIMIT))]
_BY_ORG_OF_INSTANCE = _tree("x-aiops-org", _UNKNOWN_INSTANCE)
