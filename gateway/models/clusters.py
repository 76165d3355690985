"""Clusters and endpoints of models. A cluster stays as it is while replicas come and go; its endpoints change."""

import logging
from datetime import timedelta

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from gateway.edge.addresses import is_ip
from gateway.edge.counting import NOTES
from gateway.edge.messages import message, packed, typed
from gateway.edge.upstreams import KEEPALIVE, PROTOCOL
from gateway.models.table import Balancing, ModelRoute, Sleep, Target
from gateway.tunnels import relay

log = logging.getLogger(__name__)
RING_SIZE = 1024
HELD_AT_MOST = 4096
SUBSET = "envoy.lb"
INSTANCE = "instance"
# Engines close idle connections after five seconds; whoever reuses one in that moment loses its request.
UPSTREAM_IDLE = timedelta(seconds=4)


def model_cluster(route: ModelRoute) -> cluster_pb2.Cluster:
    """A model's cluster: the replica with the fewest open requests answers; an instance can be asked for by name."""
    cluster = cluster_pb2.Cluster()
    cluster.CopyFrom(_TEMPLATE)
    cluster.name = route.cluster
    if route.grpc:
        cluster.typed_extension_protocol_options[PROTOCOL].CopyFrom(_HTTP2)
    elif any(target.single_use for target in route.targets):
        cluster.typed_extension_protocol_options[PROTOCOL].CopyFrom(_SINGLE_USE)
    if route.sleep is not None:
        # All that waited for a model are sent on when it wakes, at once.
        cluster.circuit_breakers.thresholds[0].max_retries.value = HELD_AT_MOST
    if route.balancing is not None:
        _keep_together(cluster, route.balancing)
    if _needs_dns(route):
        cluster.type = cluster_pb2.Cluster.STRICT_DNS
        cluster.load_assignment.CopyFrom(model_endpoints(route))
    else:
        cluster.type = cluster_pb2.Cluster.EDS
        cluster.eds_cluster_config.eds_config.ads.SetInParent()
        cluster.eds_cluster_config.eds_config.resource_api_version = 2
    return cluster


def _keep_together(cluster: cluster_pb2.Cluster, balancing: Balancing) -> None:
    """Requests of one key go to one instance, or to the next on the ring while that one has too many."""
    cluster.lb_policy = cluster_pb2.Cluster.RING_HASH
    cluster.ring_hash_lb_config.minimum_ring_size.value = RING_SIZE
    cluster.common_lb_config.consistent_hashing_lb_config.hash_balance_factor.value = balancing.overload_percent


def model_endpoints(route: ModelRoute) -> endpoint_pb2.ClusterLoadAssignment:
    """The model's replicas."""
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=route.cluster)
    locality = assignment.endpoints.add()
    for target in _reachable(route):
        locality.lb_endpoints.append(_endpoint(target))
    if route.sleep is not None and not locality.lb_endpoints:
        locality.lb_endpoints.append(_waiting_room(route.sleep))
    return assignment


def has_endpoints_apart(route: ModelRoute) -> bool:
    """Whether the endpoints are a resource of their own."""
    return not _needs_dns(route)


def _endpoint(target: Target) -> endpoint_components_pb2.LbEndpoint:
    built = endpoint_components_pb2.LbEndpoint()
    if target.tunnel:
        inside = built.endpoint.address.envoy_internal_address
        inside.server_listener_name, inside.endpoint_id = relay.NAME, target.tunnel
    else:
        address = built.endpoint.address.socket_address
        address.address, address.port_value = target.address, target.port
    built.load_balancing_weight.value = target.weight
    built.metadata.filter_metadata[SUBSET].update({INSTANCE: target.instance_id})
    built.metadata.filter_metadata[NOTES].update({"deployment": target.deployment_id})
    return built


def _waiting_room(sleep: Sleep) -> endpoint_components_pb2.LbEndpoint:
    """The room is asked by the name of the set that a request waits for."""
    built = endpoint_components_pb2.LbEndpoint()
    built.endpoint.hostname = sleep.replica_set_id
    address = built.endpoint.address.socket_address
    address.address, address.port_value = sleep.room
    return built


def _reachable(route: ModelRoute) -> list[Target]:
    """Envoy looks up names for clusters that have nothing else: beside tunnels only addresses can be dialled.

    The gateway looks such names up (names.py); here is left out what has no address yet.
    """
    tunnels = any(target.tunnel for target in route.targets)
    kept = [target for target in route.targets if not tunnels or target.tunnel or is_ip(target.address)]
    for target in set(route.targets) - set(kept):
        log.warning(
            "instance %s of %s gets no requests until the name of its node, %s, is looked up",
            target.instance_id,
            route.model,
            target.address,
        )
    return kept


def _needs_dns(route: ModelRoute) -> bool:
    return not all(target.tunnel or is_ip(target.address) for target in _reachable(route))


_HTTP2 = packed(
    message(
        http_protocol_options_pb2.HttpProtocolOptions,
        {"explicit_http_config": {"http2_protocol_options": {"connection_keepalive": KEEPALIVE}}},
    )
)
# For engines that close connections which they say they keep.
_SINGLE_USE = packed(
    message(
        http_protocol_options_pb2.HttpProtocolOptions,
        {
            "common_http_protocol_options": {"max_requests_per_connection": 1},
            "explicit_http_config": {"http_protocol_options": {}},
        },
    )
)
_TEMPLATE = message(
    cluster_pb2.Cluster,
    {
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "dns_lookup_family": "V4_PREFERRED",
        "per_connection_buffer_limit_bytes": 32768,
        "lb_subset_config": {
            "fallback_policy": "ANY_ENDPOINT",
            "subset_selectors": [{"keys": [INSTANCE], "fallback_policy": "NO_FALLBACK"}],
        },
        "typed_extension_protocol_options": {
            PROTOCOL: typed(
                PROTOCOL,
                common_http_protocol_options={"idle_timeout": f"{UPSTREAM_IDLE.total_seconds()}s"},
                explicit_http_config={"http_protocol_options": {}},
            )
        },
        "circuit_breakers": {
            "thresholds": [
                {"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096, "max_retries": 64}
            ]
        },
        # Only what the engine's machine does wrong counts: an answer of 500 may be the request's fault.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_5xx": 0,
            "enforcing_success_rate": 0,
            "enforcing_consecutive_gateway_failure": 100,
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_time": "30s",
            "max_ejection_percent": 50,
        },
    },
)
