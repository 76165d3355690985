"""Routes of the API and of Envoy's own pages, in the classic order: the first that matches answers."""

from collections.abc import Iterable

from gateway.edge.contracts import INFERENCE_SERVICE, Binding, Method, public_methods
from gateway.edge.filters import (
    GRPC_CHAT,
    GRPC_RECORDING,
    GRPC_STREAM,
    JWT,
    READS,
    RECORDING_LIMIT,
    REQUEST_LIMIT,
    UNWRAP,
    WRITES,
    enabled,
)
from gateway.edge.messages import HTTP, typed
from gateway.edge.upstreams import API, REALTIME
from gateway.edge.wire import is_scripted

# The longest a unary call may take; services have their own, shorter deadlines.
DEADLINE = "60s"
# What no controller has taken in goes to another one.
OTHER_CONTROLLER = {"retry_on": "connect-failure,refused-stream", "num_retries": 2}
# A process that takes no connection is not asked twice.
OTHER_PROCESS = {
    "retry_on": "connect-failure",
    "num_retries": 3,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
        }
    ],
    "host_selection_retry_max_attempts": 5,
}
# A cluster that does not exist.
NOWHERE = "nowhere"
OPEN = {JWT: typed(HTTP + "jwt_authn.v3.PerRouteConfig", disabled=True)}
# Conversations, and what happens on the platform, over WebSocket.
SOCKETS = ("/ws/agent", "/ws/system")
WRITING_VERBS = "^(POST|PUT|PATCH)$"


def api_routes(pages: Iterable[dict[str, object]]) -> list[dict[str, object]]:
    """Every route but the models'.

    A REST call passes twice: first as it came, where a route only switches on what reads it; the transcoder then turns
    it into a gRPC path, which leads to the controller. What no method answers ends at the first pass, with 404.
    """
    methods = public_methods()
    served = [method for method in methods if method.bindings or method.streams or is_scripted(method)]
    routes = [health_route(), *pages, *map(_socket_route, SOCKETS)]
    routes += [_grpc_route(method) for method in served if method.service != INFERENCE_SERVICE]
    routes += [_inference_route(method) for method in served if method.service == INFERENCE_SERVICE]
    routes += [_open_rest_route(binding) for method in methods if method.anyone for binding in method.bindings]
    routes.append(
        entry({"prefix": "/", "headers": [_header(":method", WRITING_VERBS)]}, enabled(WRITES), REQUEST_LIMIT)
    )
    routes.append(entry({"prefix": "/"}, enabled(READS), REQUEST_LIMIT))
    return routes


def direct(match: dict[str, object], status: int, body: str, content_type: str, **more: object) -> dict[str, object]:
    """A route that Envoy answers by itself."""
    header = {"header": {"key": "content-type", "value": content_type}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    answer = {"status": status, "body": {"inline_string": body}} if body else {"status": status}
    return {"match": match, "direct_response": answer, "response_headers_to_add": [header], **more}


def entry(match: dict[str, object], filters: dict[str, object], limit: int) -> dict[str, object]:
    """A route of the first pass: it switches on the filters that find out where the request goes.

    It leads nowhere itself: only a route to a cluster can say how much of a body may be read.
    """
    nowhere = {"cluster": NOWHERE, "cluster_not_found_response_code": "NOT_FOUND"}
    return {"match": match, "route": nowhere, "typed_per_filter_config": filters, "request_body_buffer_limit": limit}


def health_route() -> dict[str, object]:
    """Says that Envoy serves."""
    return direct({"path": "/healthz"}, 200, '{"status":"healthy"}', "application/json", typed_per_filter_config=OPEN)


def _socket_route(path: str) -> dict[str, object]:
    """Leads sockets to where they are served, and where tokens are checked: some come in the first frame."""
    route = {
        "cluster": REALTIME,
        "timeout": "0s",
        # Sockets are pinged more often than this.
        "idle_timeout": "120s",
        "upgrade_configs": [{"upgrade_type": "websocket", "enabled": True}],
        "retry_policy": OTHER_PROCESS,
    }
    return {"match": {"path": path}, "route": route, "typed_per_filter_config": OPEN}


def _grpc_route(method: Method) -> dict[str, object]:
    limits = {"timeout": "0s", "idle_timeout": "0s"} if method.streams else {"timeout": DEADLINE}
    filters = OPEN if method.anyone else {}
    if method.unwraps:
        filters = {**filters, UNWRAP: typed(HTTP + "lua.v3.LuaPerRoute", name=UNWRAP)}
    route = {"cluster": API, **limits, "retry_policy": OTHER_CONTROLLER}
    return {"match": {"path": method.path}, "route": route, "typed_per_filter_config": filters}


def _inference_route(method: Method) -> dict[str, object]:
    if not is_scripted(method):
        return entry({"path": method.path}, enabled(GRPC_CHAT), REQUEST_LIMIT)
    if method.streams:
        return entry({"path": method.path}, enabled(GRPC_STREAM), REQUEST_LIMIT)
    return entry({"path": method.path}, enabled(GRPC_RECORDING), RECORDING_LIMIT)


def _open_rest_route(binding: Binding) -> dict[str, object]:
    match = {**_template(binding.path), "headers": [_header(":method", f"^{binding.verb}$")]}
    return entry(match, enabled(WRITES if binding.body else READS) | OPEN, REQUEST_LIMIT)


def _template(path: str) -> dict[str, object]:
    if "{" not in path:
        return {"path": path}
    config = typed("envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig", path_template=path)
    return {"path_match_policy": {"name": "envoy.path.match.uri_template.uri_template_matcher", "typed_config": config}}


def _header(name: str, pattern: str) -> dict[str, object]:
    return {"name": name, "string_match": {"safe_regex": {"regex": pattern}}}
