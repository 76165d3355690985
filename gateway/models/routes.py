"""The public port's routes: the API's, and those of every organisation's models."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

from envoy.config.route.v3 import route_components_pb2, route_pb2
from google.protobuf import any_pb2, duration_pb2
from xds.core.v3 import extension_pb2

from gateway.edge.counting import CLAIMS
from gateway.edge.filters import BODY
from gateway.edge.limits import NAME as MODEL_NAME
from gateway.edge.limits import ROUTE, STREAM_USAGE
from gateway.edge.listener import NAME
from gateway.edge.messages import message, typed
from gateway.edge.trust import API_KEY
from gateway.models import open_inference
from gateway.models.answers import model_description, model_list, private_path, unknown_model, wrong_protocol
from gateway.models.clusters import INSTANCE, SUBSET
from gateway.models.context import body_context
from gateway.models.lookup import BODY_LIMIT, KEY, MODEL, Lookup, action, empty_lookup
from gateway.models.memo import Memo
from gateway.models.sleep import AWAKE, NO_RETRY, SENT_ON_AT_MOST
from gateway.models.table import Listed, ModelRoute, Target
from gateway.policies.routes import policy_route
from gateway.policies.table import PolicyRoute
from gateway.tunnels.relay import UNREACHED

LONGEST_ANSWER = 4 * 1024 * 1024
PREVIOUS_HOSTS = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
# Only what cannot have reached an engine is tried again.
RETRY = {
    "retry_on": "connect-failure,refused-stream,reset-before-request,retriable-headers",
    "retriable_headers": [{"name": UNREACHED, "present_match": True}],
    "num_retries": 3,
    "retry_host_predicate": [
        {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": typed(PREVIOUS_HOSTS)}
    ],
    "host_selection_retry_max_attempts": 3,
    "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.1s"},
}
# A request that waited for its model is sent to it when it is awake, as often as it takes Envoy to hear of it.
RETRY_ASLEEP = message(
    route_components_pb2.RetryPolicy,
    {
        **RETRY,
        "retriable_headers": [{"name": name, "present_match": True} for name in (UNREACHED, AWAKE)],
        "num_retries": SENT_ON_AT_MOST,
    },
)


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A model's part: what its name leads to, and what each instance's path leads to."""

    by_name: extension_pb2.TypedExtensionConfig
    by_grpc: extension_pb2.TypedExtensionConfig | None
    instances: dict[str, extension_pb2.TypedExtensionConfig]


class RouteTable:
    """Renders the one RouteConfiguration. What is the same as the last time is not rendered again."""

    def __init__(self, api: Iterable[dict[str, object]], cors: Sequence[str], idle: timedelta) -> None:
        self._idle = duration_pb2.Duration()
        self._idle.FromTimedelta(idle)
        self._base = message(route_pb2.RouteConfiguration, _configuration(cors))
        self._base.virtual_hosts[0].matcher.CopyFrom(empty_lookup(list(api)))
        self._rendered = Memo(self._render)
        self._policies = Memo[PolicyRoute, extension_pb2.TypedExtensionConfig](
            lambda policy: action([policy_route(policy, self._idle)])
        )

    def render(
        self, models: Sequence[ModelRoute], policies: Sequence[PolicyRoute] = ()
    ) -> route_pb2.RouteConfiguration:
        """The whole configuration for these models, which come sorted by organisation, and these policies."""
        configuration = route_pb2.RouteConfiguration()
        configuration.CopyFrom(self._base)
        lookup = Lookup(configuration.virtual_hosts[0].matcher)
        for model, rendered in self._rendered.all(models):
            lookup.add_model(model.key, rendered.by_name)
            if rendered.by_grpc is not None:
                lookup.add_grpc_model(model.key, rendered.by_grpc)
            for path, leads_to in rendered.instances.items():
                lookup.add_instance(path, model.org_id, leads_to)
        self._add_policies(lookup, policies)
        self._add_organisations(lookup, models, policies)
        return configuration

    def _add_policies(self, lookup: Lookup, policies: Sequence[PolicyRoute]) -> None:
        for policy, leads_to in self._policies.all(policies):
            for name in policy.names:
                if policy.universe:
                    lookup.add_for_everybody(name, leads_to)
                else:
                    lookup.add_model(f"{policy.org_id}/{name}", leads_to)

    def _add_organisations(self, lookup: Lookup, models: Sequence[ModelRoute], policies: Sequence[PolicyRoute]) -> None:
        everybodys = {name: listed for policy in policies if policy.universe for name, listed in _listed(policy)}
        own: dict[str, dict[str, Listed]] = {}
        speaking: dict[str, list[str]] = {}
        for model in models:
            own.setdefault(model.org_id, {})[model.model] = model.listed
            if open_inference.speaks(model):
                speaking.setdefault(model.org_id, []).append(model.model)
        for policy in policies:
            if not policy.universe:
                own.setdefault(policy.org_id, {}).update(_listed(policy))
        if everybodys:
            lookup.add_everybody(unknown_model(sorted(everybodys)), self._pages(everybodys))
        for org_id, mine in own.items():
            known = {**everybodys, **mine}
            lookup.add_organisation(org_id, unknown_model(sorted(known)), self._pages(known))
            lookup.add_protocol(org_id, speaking.get(org_id, []))

    @staticmethod
    def _pages(known: Mapping[str, Listed]) -> dict[str, extension_pb2.TypedExtensionConfig]:
        listed = [known[name] for name in sorted(known)]
        pages = {f"/v1/models/{each.model}": _described(each) for each in listed}
        return {**pages, "/v1/models": action([model_list(listed, {"prefix": "/"})])}

    def _render(self, model: ModelRoute) -> _Rendered:
        refusals = body_context(model.model, model.refused)
        by_name = route_components_pb2.Route()
        by_name.match.prefix = "/"
        self._lead_to(by_name, model, refusals)
        instances = {
            f"/models/{model.model}/{target.instance_id}/": action(self._instance_routes(model, target, refusals))
            for target in model.targets
        }
        if open_inference.speaks(model):
            by_name = wrong_protocol(model)
            instances[open_inference.MODELS + model.model] = action(self._protocol_routes(model))
        return _Rendered(action([by_name]), self._by_grpc(model), instances)

    def _protocol_routes(self, model: ModelRoute) -> list[route_components_pb2.Route]:
        """The model's paths of the Open Inference Protocol, which name it as its engine does."""
        routes = [route_components_pb2.Route() for _ in range(2)]
        for route, match in zip(routes, open_inference.model_matches(model.model), strict=True):
            route.match.CopyFrom(message(route_components_pb2.RouteMatch, match))
            self._lead_to(route, model, None)
        private = {path for target in model.targets for path in target.private_paths}
        own = sorted(path for path in private if path.startswith(open_inference.MODELS))
        return [*(open_inference.private_path(path) for path in own), *routes, open_inference.no_such_model(())]

    def _by_grpc(self, model: ModelRoute) -> extension_pb2.TypedExtensionConfig | None:
        over_grpc = model.over_grpc
        if over_grpc is None:
            return None
        route = route_components_pb2.Route()
        route.match.prefix = "/"
        self._lead_to(route, over_grpc, None)
        return action([route])

    def _instance_routes(
        self, model: ModelRoute, target: Target, refusals: any_pb2.Any | None
    ) -> list[route_components_pb2.Route]:
        base = f"/models/{model.model}/{target.instance_id}/"
        inference, rest = route_components_pb2.Route(), route_components_pb2.Route()
        inference.match.path = base + "v1/inference"
        inference.route.prefix_rewrite = target.inference_path
        rest.match.prefix = base
        rest.route.prefix_rewrite = "/"
        for route in (inference, rest):
            self._lead_to(route, model, refusals)
            route.route.metadata_match.filter_metadata[SUBSET].update({INSTANCE: target.instance_id})
        private = [private_path(base + path.removeprefix("/")) for path in target.private_paths]
        return [*private, inference, rest]

    def _lead_to(self, route: route_components_pb2.Route, model: ModelRoute, refusals: any_pb2.Any | None) -> None:
        route.route.cluster = model.cluster
        route.metadata.filter_metadata[ROUTE].update({MODEL_NAME: model.model, STREAM_USAGE: model.tells_usage})
        # No limit in time: an answer may be long. A connection on which nothing happens ends.
        route.route.timeout.SetInParent()
        route.route.idle_timeout.CopyFrom(self._idle)
        # A user's token is none of the engine's business.
        route.request_headers_to_remove.append("authorization")
        if model.sleep is not None:
            route.route.retry_policy.CopyFrom(RETRY_ASLEEP)
            route.route.auto_host_rewrite.value = True
            # What is not kept cannot be sent on.
            route.request_body_buffer_limit.value = BODY_LIMIT
        if refusals is not None:
            route.typed_per_filter_config[BODY].CopyFrom(refusals)


@lru_cache(maxsize=10_000)
def _described(listed: Listed) -> extension_pb2.TypedExtensionConfig:
    return action([model_description(listed)])


def _listed(policy: PolicyRoute) -> Iterator[tuple[str, Listed]]:
    for name in policy.names:
        yield name, Listed(name, policy.org_id, policy.created)


def _configuration(cors: Sequence[str]) -> dict[str, object]:
    host = {
        "name": NAME,
        "domains": ["*"],
        "retry_policy": RETRY,
        "request_headers_to_remove": [MODEL, KEY, API_KEY, *CLAIMS.values()],
        "response_headers_to_remove": ["x-aiops-engine-status", UNREACHED, AWAKE, NO_RETRY],
        "typed_per_filter_config": {"envoy.filters.http.cors": _cors(cors)},
    }
    return {"name": NAME, "max_direct_response_body_size_bytes": LONGEST_ANSWER, "virtual_hosts": [host]}


def _cors(origins: Sequence[str]) -> dict[str, object]:
    allowed = [{"safe_regex": {"regex": ".*"}} if origin == "*" else {"exact": origin} for origin in origins]
    return typed(
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        allow_origin_string_match=allowed,
        allow_methods="GET, POST, PUT, PATCH, DELETE, OPTIONS",
        allow_headers="authorization, content-type, x-grpc-web, x-user-agent, grpc-timeout, x-request-id, x-api-key, "
        "anthropic-version, anthropic-beta, anthropic-dangerous-direct-browser-access",
        expose_headers="grpc-status, grpc-message, grpc-status-details-bin, x-request-id",
        max_age="86400",
    )
