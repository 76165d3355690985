"""Clusters of a policy's targets, and those that join them to chains.

A request's n-th attempt goes to the n-th step of its chain (a composite cluster). Each step is the first target that is
not ejected of that one and all later ones (an aggregate cluster), so a target that is down costs no attempt for long.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from gateway.edge.addresses import is_ip
from gateway.edge.counting import NOTES
from gateway.edge.messages import message, packed, typed
from gateway.edge.upstreams import PROTOCOL
from gateway.models.clusters import has_endpoints_apart, model_cluster, model_endpoints
from gateway.models.sleep import SENT_ON_AT_MOST
from gateway.models.table import ModelRoute
from gateway.policies.table import AUTHORIZATION, External, PolicyRoute, PolicyTarget, Resilience

# The listener inside Envoy that names the model as a target knows it; see relay.py.
RELAY = "targets"
# The one that sends copies on, and counts them; see mirrors.py.
MIRRORS = "mirrors"
TARGET = "target"
# The name of a credential's secret where it is shown as it is, without "Bearer", ends so.
ALONE = "/alone"
TLS = "envoy.transport_sockets.tls"
# So many attempts beyond the first may be open at any time, however few requests are: whoever was on a target that
# went down is tried elsewhere at once.
RETRIES_ALWAYS = 256
MACHINES_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster of a policy, as something to compare and to render."""

    name: str
    target: PolicyTarget | None
    resilience: Resilience
    # Clusters that this one joins: as steps, one for each attempt, or as the first of them that is there.
    members: tuple[str, ...] = ()
    steps: bool = False
    relayed: bool = False
    # The listener inside Envoy that a relayed one leads to.
    listener: str = RELAY

    def render(self) -> cluster_pb2.Cluster:
        """The cluster."""
        if self.members:
            return _joined(self)
        if self.relayed:
            return _relayed(self)
        assert self.target is not None
        if self.target.external is not None:
            built = _outside(self.name, self.target.external)
        else:
            built = model_cluster(self._serving)
        _guard(built, self.resilience)
        return built

    def endpoints(self) -> endpoint_pb2.ClusterLoadAssignment | None:
        """Its endpoints, where they are a resource of their own."""
        if self.target is None or self.target.serving is None or self.relayed:
            return None
        return _marked(model_endpoints(self._serving), self.target) if has_endpoints_apart(self._serving) else None

    @property
    def _serving(self) -> ModelRoute:
        assert self.target is not None
        assert self.target.serving is not None
        return self.target.serving


def direct(policy: PolicyRoute, target: PolicyTarget) -> str:
    """The name of a target's own cluster."""
    return f"target/{policy.route_id}/{target.name}"


def relayed(policy: PolicyRoute, target: PolicyTarget) -> str:
    """The name of the cluster that leads to a target through the relay."""
    return f"relayed/{policy.route_id}/{target.name}"


def mirrored(policy: PolicyRoute, target: PolicyTarget) -> str:
    """The name of the cluster that leads to a target that gets copies."""
    return f"mirrored/{policy.route_id}/{target.name}"


def entrance(policy: PolicyRoute, first: PolicyTarget) -> str:
    """The cluster that a request goes to whose first attempt is for this target."""
    chain = policy.chain(first)
    return way(policy, first, first) if len(chain) == 1 else f"chain/{policy.route_id}/{first.name}"


def way(policy: PolicyRoute, first: PolicyTarget, target: PolicyTarget) -> str:
    """How a target is reached by a request written for `first`: through the relay where it must be rewritten."""
    rewritten = target.external is not None or target.fixed or target.model != first.model
    return relayed(policy, target) if rewritten else direct(policy, target)


def clusters(policy: PolicyRoute) -> dict[str, Cluster]:
    """Every cluster of a policy, by name."""
    found = {cluster.name: cluster for first in policy.firsts for cluster in _of_chain(policy, first)}
    for target in policy.mirrors:
        name, guard = mirrored(policy, target), policy.resilience
        found[direct(policy, target)] = Cluster(direct(policy, target), target, guard)
        found[name] = Cluster(name, target, guard, relayed=True, listener=MIRRORS)
    return found


def _of_chain(policy: PolicyRoute, first: PolicyTarget) -> Iterator[Cluster]:
    chain, guard = policy.chain(first), policy.resilience
    ways = [way(policy, first, target) for target in chain]
    for target, name in zip(chain, ways, strict=True):
        if not target.fixed:
            yield Cluster(direct(policy, target), target, guard)
        if name == relayed(policy, target):
            yield Cluster(name, target, guard, relayed=True)
    if len(chain) == 1:
        return
    steps = list[str]()
    for number in range(len(chain)):
        name = f"rest/{policy.route_id}/{first.name}/{number}"
        if number < len(chain) - 1:
            yield Cluster(name, None, guard, tuple(ways[number:]))
        steps.append(name if number < len(chain) - 1 else ways[number])
    again = max(guard.max_attempts - len(chain), 0)
    if first.serving is not None and first.serving.sleep is not None:
        again += SENT_ON_AT_MOST
    yield Cluster(f"chain/{policy.route_id}/{first.name}", None, guard, (*steps[:1] * again, *steps), steps=True)


def _joined(cluster: Cluster) -> cluster_pb2.Cluster:
    kind = "composite" if cluster.steps else "aggregate"
    members = [{"name": name} for name in cluster.members] if cluster.steps else list(cluster.members)
    config = typed(f"envoy.extensions.clusters.{kind}.v3.ClusterConfig", clusters=members)
    content: dict[str, object] = {
        "name": cluster.name,
        "connect_timeout": "1s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": f"envoy.clusters.{kind}", "typed_config": config},
        "circuit_breakers": {"thresholds": [_limits(cluster.resilience)]},
    }
    built = message(cluster_pb2.Cluster, content)
    # Of a request through a chain, the chain's own options say what an answer is.
    _count_answers(built, cluster.resilience.retry_statuses)
    return built


def _relayed(cluster: Cluster) -> cluster_pb2.Cluster:
    inside = {"server_listener_name": cluster.listener, "endpoint_id": cluster.name}
    assignment = {
        "cluster_name": cluster.name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"envoy_internal_address": inside}}}]}],
    }
    content = {
        "name": cluster.name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": 32768,
        "load_assignment": assignment,
    }
    built = message(cluster_pb2.Cluster, content)
    assert cluster.target is not None
    _marked(built.load_assignment, cluster.target)
    _guard(built, cluster.resilience)
    return built


def _outside(name: str, external: External) -> cluster_pb2.Cluster:
    address = {"socket_address": {"address": external.host, "port_value": external.port}}
    content: dict[str, object] = {
        "name": name,
        "type": "STATIC" if is_ip(external.host) else "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "5s",
        "per_connection_buffer_limit_bytes": 32768,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {PROTOCOL: _protocol(external)},
    }
    if external.tls:
        content["transport_socket"] = {"name": TLS, "typed_config": _tls(external)}
    return message(cluster_pb2.Cluster, content)


def _protocol(external: External) -> dict[str, object]:
    """HTTP/1.1, with the credential put in at the last moment: no route, header or dump has it before."""
    codec = typed("envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec")
    filters = [{"name": "envoy.filters.http.upstream_codec", "typed_config": codec}]
    if external.credential_id:
        filters.insert(0, {"name": "envoy.filters.http.credential_injector", "typed_config": _shown(external)})
    return typed(
        PROTOCOL,
        common_http_protocol_options={"idle_timeout": "30s"},
        explicit_http_config={"http_protocol_options": {}},
        http_filters=filters,
    )


def _shown(external: External) -> dict[str, object]:
    header = external.credential_header
    name = external.credential_id + ("" if header == AUTHORIZATION else ALONE)
    secret = {"name": name, "sds_config": {"ads": {}, "resource_api_version": "V3"}}
    generic = typed("envoy.extensions.http.injected_credentials.generic.v3.Generic", credential=secret, header=header)
    credential = {"name": "envoy.http.injected_credentials.generic", "typed_config": generic}
    return typed(
        "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
        overwrite=True,
        credential=credential,
    )


def _tls(external: External) -> dict[str, object]:
    authorities = {"inline_string": external.ca_pem} if external.ca_pem else {"filename": MACHINES_AUTHORITIES}
    kind = "IP_ADDRESS" if is_ip(external.host) else "DNS"
    names = [{"san_type": kind, "matcher": {"exact": external.host}}]
    context: dict[str, object] = {
        "validation_context": {"trusted_ca": authorities, "match_typed_subject_alt_names": names},
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["http/1.1"],
    }
    sni = {} if is_ip(external.host) else {"sni": external.host}
    return typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context=context, **sni)


def _guard(built: cluster_pb2.Cluster, resilience: Resilience) -> None:
    """Limits what a target is given, and leaves it alone for a while after it failed."""
    built.ClearField("circuit_breakers")
    built.ClearField("outlier_detection")
    seconds = resilience.recovery_timeout_ms / 1000
    detection: Mapping[str, object] = {
        # One count of everything: apart, each connection that comes about would begin that of timeouts anew.
        "split_external_local_origin_errors": False,
        # Of answers, only those that `_count_answers` names count: one of 500 may be the request's fault.
        "consecutive_5xx": resilience.failure_threshold,
        "enforcing_consecutive_5xx": 100,
        "enforcing_success_rate": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "interval": "1s",
        "base_ejection_time": f"{seconds}s",
        "max_ejection_time": f"{max(seconds, 300)}s",
        "max_ejection_percent": 100,
    }
    guarded = {"circuit_breakers": {"thresholds": [_limits(resilience)]}, "outlier_detection": detection}
    built.MergeFrom(message(cluster_pb2.Cluster, guarded))
    if resilience.retry_statuses:
        _count_answers(built, resilience.retry_statuses)


def _count_answers(built: cluster_pb2.Cluster, statuses: Sequence[int]) -> None:
    """Answers that are tried elsewhere are failures of the target: it is left alone for them, also for 429."""
    options = http_protocol_options_pb2.HttpProtocolOptions()
    if PROTOCOL in built.typed_extension_protocol_options:
        built.typed_extension_protocol_options[PROTOCOL].Unpack(options)
    else:
        options.explicit_http_config.http_protocol_options.SetInParent()
    known = "|".join(str(status) for status in sorted(statuses))
    status = {"name": ":status", "string_match": {"safe_regex": {"regex": known}}}
    matcher = {"error_matcher": {"http_response_headers_match": {"headers": [status]}}}
    options.outlier_detection.CopyFrom(message(http_protocol_options_pb2.HttpProtocolOptions.OutlierDetection, matcher))
    built.typed_extension_protocol_options[PROTOCOL].CopyFrom(packed(options))


def _limits(resilience: Resilience) -> dict[str, object]:
    most = resilience.max_requests
    budget = {
        "budget_percent": {"value": resilience.retry_budget_percent},
        "min_retry_concurrency": RETRIES_ALWAYS,
    }
    return {"max_connections": most, "max_pending_requests": most, "max_requests": most, "retry_budget": budget}


def _marked(assignment: endpoint_pb2.ClusterLoadAssignment, target: PolicyTarget) -> endpoint_pb2.ClusterLoadAssignment:
    """Tells of each endpoint which target it belongs to, for the answer's headers."""
    for locality in assignment.endpoints:
        for endpoint in locality.lb_endpoints:
            endpoint.metadata.filter_metadata[NOTES].update({TARGET: target.name})
    return assignment
