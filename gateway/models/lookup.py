"""How Envoy finds a request's route: by the longest prefix of its path, then by organisation and name, in hash maps.

A model request passes twice. At first organisation and model are unknown, and the route found only switches on what
reads the token and the body; their findings become headers, which lead to the model the second time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import http_inputs_pb2
from xds.core.v3 import extension_pb2
from xds.type.matcher.v3 import matcher_pb2, string_pb2

from gateway.edge.filters import (
    BODY,
    CHAT,
    ENDPOINT,
    INSTANCE_STREAMS,
    INVALID,
    MESSAGES,
    METERED,
    MISSING,
    RECORDING_LIMIT,
    TRANSCRIPTION,
    enabled,
)
from gateway.edge.messages import message, packed
from gateway.edge.routes import entry
from gateway.edge.upstreams import WEB
from gateway.models.answers import invalid_body, model_list, unknown_model
from gateway.models.open_inference import (
    GRPC,
    ROOT,
    grpc_entry,
    no_such_model,
    second_look,
    server_routes,
    unknown_call,
)

CHATS = "/v1/chat/completions"
ENDPOINTS = "^/v1/(completions|embeddings|responses)$"
ANTHROPIC = "/v1/messages"
BODY_LIMIT = 16 * 1024 * 1024
TRANSCRIPTIONS = "/v1/audio/transcriptions"
FILES_AND_BATCHES = ("/v1/files", "/v1/batches")
ORG, MODEL, KEY = "x-aiops-org", "x-aiops-model", "x-aiops-route"
NO_MODEL = "the body names no model; send a JSON object with a 'model'"
NOT_JSON = "the body is no JSON object with a 'model' that is a string"
# Envoy takes no empty map; no organisation and no model is called so.
NOBODY = "-"

Route = route_components_pb2.Route


class Lookup:
    """The look-up inside a route configuration, to be filled with models."""

    def __init__(self, root: matcher_pb2.Matcher) -> None:
        self._paths = root.matcher_tree.prefix_match_map.map
        # What names of models lead to that are none of the caller's organisation: everybody's, then nowhere.
        self._named = self._paths["/v1/"].matcher.on_no_match.matcher.matcher_list.matchers[-1].on_match.matcher

    def add_model(self, key: str, leads_to: extension_pb2.TypedExtensionConfig) -> None:
        """Where requests that name a model go."""
        self._paths["/v1/"].matcher.matcher_tree.exact_match_map.map[key].action.CopyFrom(leads_to)

    def add_for_everybody(self, name: str, leads_to: extension_pb2.TypedExtensionConfig) -> None:
        """Where requests of any organisation go that name a model which is not its own."""
        self._named.matcher_tree.exact_match_map.map[name].action.CopyFrom(leads_to)

    def add_grpc_model(self, key: str, leads_to: extension_pb2.TypedExtensionConfig) -> None:
        """Where gRPC calls of the Open Inference Protocol that name a model go."""
        self._paths[GRPC].matcher.matcher_tree.exact_match_map.map[key].action.CopyFrom(leads_to)

    def add_instance(self, path: str, org_id: str, leads_to: extension_pb2.TypedExtensionConfig) -> None:
        """Where requests below an instance's path go, for its own organisation."""
        by_org = self._paths[path].matcher
        if not by_org.HasField("matcher_tree"):
            by_org.CopyFrom(_INSTANCE)
        by_org.matcher_tree.exact_match_map.map[org_id].action.CopyFrom(leads_to)

    def add_organisation(
        self,
        org_id: str,
        not_found: Sequence[route_components_pb2.Route],
        pages: Mapping[str, extension_pb2.TypedExtensionConfig],
    ) -> None:
        """What an organisation is told: the pages below /v1/models, and about every other name that there is none."""
        unknown = self._named.on_no_match.matcher
        unknown.matcher_tree.exact_match_map.map[org_id].action.CopyFrom(action(not_found))
        listed = self._paths["/v1/models"].matcher.matcher_tree.exact_match_map.map[org_id]
        listed.matcher.CopyFrom(_pages(not_found, pages))

    def add_everybody(
        self,
        not_found: Sequence[route_components_pb2.Route],
        pages: Mapping[str, extension_pb2.TypedExtensionConfig],
    ) -> None:
        """The same for every other organisation."""
        self._named.on_no_match.matcher.on_no_match.action.CopyFrom(action(not_found))
        self._paths["/v1/models"].matcher.on_no_match.matcher.CopyFrom(_pages(not_found, pages))

    def add_protocol(self, org_id: str, models: Sequence[str]) -> None:
        """What an organisation is told in the Open Inference Protocol about all but its models that speak it."""
        pages = self._paths[ROOT].matcher.matcher_tree.exact_match_map.map
        pages[org_id].action.CopyFrom(action([*server_routes(), no_such_model(models)]))
        calls = self._paths[GRPC].matcher.on_no_match.matcher.matcher_tree.exact_match_map.map
        calls[org_id].action.CopyFrom(action(unknown_call(models)))


def empty_lookup(api: Sequence[dict[str, object]]) -> matcher_pb2.Matcher:
    """The look-up without models: everything but the model paths goes through the API's routes."""
    root = tree(":path", [message(Route, route) for route in api], "prefix_match_map")
    paths = root.matcher_tree.prefix_match_map.map
    paths["/v1/"].matcher.CopyFrom(_by_model())
    paths["/v1/models"].matcher.CopyFrom(_by_org([model_list([], {"path": "/v1/models"}), *unknown_model([])]))
    for path in FILES_AND_BATCHES:
        paths[path].action.CopyFrom(action([_web()]))
    paths[ROOT].matcher.CopyFrom(_by_org([*server_routes(), second_look()]))
    paths[GRPC].matcher.CopyFrom(_by_grpc_model())
    return root


def action(routes: Sequence[route_components_pb2.Route]) -> extension_pb2.TypedExtensionConfig:
    """What a look-up ends with: one route, or several of which the first that matches counts."""
    chosen = routes[0] if len(routes) == 1 else route_components_pb2.RouteList(routes=routes)
    return extension_pb2.TypedExtensionConfig(name="route", typed_config=packed(chosen))


def _web() -> route_components_pb2.Route:
    """Leads to the gateway's own server; uploads and downloads take as long as they go on."""
    route = {"cluster": WEB, "timeout": "0s", "idle_timeout": "300s"}
    return message(route_components_pb2.Route, {"match": {"prefix": "/"}, "route": route})


def _by_model() -> matcher_pb2.Matcher:
    matcher = tree(KEY, _entry())
    matcher.matcher_tree.exact_match_map.map[NOBODY].CopyFrom(matcher.on_no_match)
    otherwise = matcher_pb2.Matcher()
    for header, value, text in (
        (MODEL, {"exact": MISSING}, NO_MODEL),
        (KEY, {"suffix": "/"}, NO_MODEL),
        (MODEL, {"exact": INVALID}, NOT_JSON),
    ):
        fault = otherwise.matcher_list.matchers.add()
        _when(fault.predicate, header, value)
        fault.on_match.action.CopyFrom(action(invalid_body(text)))
    named = otherwise.matcher_list.matchers.add()
    _when(named.predicate, MODEL, {"safe_regex": {"regex": ".+", "google_re2": {}}})
    everybodys = tree(MODEL, unknown_model([]))
    everybodys.matcher_tree.exact_match_map.map[NOBODY].CopyFrom(everybodys.on_no_match)
    everybodys.on_no_match.matcher.CopyFrom(_by_org(unknown_model([])))
    named.on_match.matcher.CopyFrom(everybodys)
    otherwise.on_no_match.CopyFrom(matcher.on_no_match)
    matcher.on_no_match.matcher.CopyFrom(otherwise)
    return matcher


def _pages(
    not_found: Sequence[route_components_pb2.Route], pages: Mapping[str, extension_pb2.TypedExtensionConfig]
) -> matcher_pb2.Matcher:
    listed = tree(":path", not_found)
    for path, page in pages.items():
        listed.matcher_tree.exact_match_map.map[path].action.CopyFrom(page)
    return listed


def _by_grpc_model() -> matcher_pb2.Matcher:
    matcher = tree(KEY, grpc_entry())
    named = tree(ORG, grpc_entry())
    for empty in (matcher, named):
        empty.matcher_tree.exact_match_map.map[NOBODY].CopyFrom(matcher.on_no_match)
    matcher.on_no_match.matcher.CopyFrom(named)
    return matcher


def _entry() -> list[route_components_pb2.Route]:
    post = {"name": ":method", "string_match": {"exact": "POST"}}
    chat = entry({"path": CHATS, "headers": [post]}, enabled(CHAT), BODY_LIMIT)
    read = entry({"safe_regex": {"regex": ENDPOINTS}, "headers": [post]}, enabled([*CHAT, ENDPOINT]), BODY_LIMIT)
    heard = entry({"path": TRANSCRIPTIONS, "headers": [post]}, enabled([TRANSCRIPTION, *METERED]), RECORDING_LIMIT)
    translated = entry({"path": ANTHROPIC, "headers": [post]}, enabled([MESSAGES, *CHAT]), BODY_LIMIT)
    # Whatever else Anthropic has there is refused in its own words.
    beside = entry({"prefix": ANTHROPIC}, enabled([MESSAGES]), BODY_LIMIT)
    routes = (chat, read, heard, translated, beside, entry({"prefix": "/"}, {}, BODY_LIMIT))
    return [message(Route, route) for route in routes]


def _by_org(otherwise: Sequence[route_components_pb2.Route]) -> matcher_pb2.Matcher:
    matcher = tree(ORG, otherwise)
    matcher.matcher_tree.exact_match_map.map[NOBODY].CopyFrom(matcher.on_no_match)
    return matcher


def tree(
    header: str, otherwise: Sequence[route_components_pb2.Route], kind: str = "exact_match_map"
) -> matcher_pb2.Matcher:
    """A look-up by a header, still empty, and what is done about every other value."""
    matcher = matcher_pb2.Matcher()
    _read(matcher.matcher_tree.input, header)
    getattr(matcher.matcher_tree, kind).SetInParent()
    matcher.on_no_match.action.CopyFrom(action(otherwise))
    return matcher


def _when(predicate: matcher_pb2.Matcher.MatcherList.Predicate, header: str, value: dict[str, Any]) -> None:
    _read(predicate.single_predicate.input, header)
    predicate.single_predicate.value_match.CopyFrom(message(string_pb2.StringMatcher, value))


def _read(target: extension_pb2.TypedExtensionConfig, header: str) -> None:
    target.name = header
    target.typed_config.CopyFrom(packed(http_inputs_pb2.HttpRequestHeaderMatchInput(header_name=header)))


_INSTANCE = tree(ORG, [message(Route, entry({"prefix": "/"}, enabled([INSTANCE_STREAMS, BODY, *METERED]), BODY_LIMIT))])
