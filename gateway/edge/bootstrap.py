"""Envoy's start-up file: where its configuration comes from, and the limits of the process. All else is dynamic."""

import json

from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf import json_format

from gateway.edge.addresses import envoy_address
from gateway.edge.messages import message, typed
from gateway.edge.upstreams import grpc_cluster

XDS = "xds"
MONITORS = "envoy.extensions.resource_monitors."


def render(
    *,
    xds: str,
    admin: str,
    node_id: str = "aiops-gateway",
    max_heap_mb: int = 448,
    max_connections: int = 10_000,
) -> str:
    """Envoy's bootstrap in JSON. `xds` and `admin` are `host:port` or `unix:path`."""
    source = {"ads": {}, "resource_api_version": "V3"}
    service = {"envoy_grpc": {"cluster_name": XDS}}
    ads = {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "grpc_services": [service],
        "set_node_on_first_message_only": True,
    }

    content = {
        "node": {"id": node_id, "cluster": "aiops-gateway"},
        "bootstrap_extensions": _tunnel_extensions(),
        "admin": {"address": envoy_address(admin)},
        "dynamic_resources": {"ads_config": ads, "cds_config": source, "lds_config": source},
        # How many requests the clusters work on that the gateway asks for, as often as it asks for that.
        "cluster_manager": {
            "load_stats_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [service],
            }
        },
        "static_resources": {"clusters": [grpc_cluster(XDS, xds)]},
        "overload_manager": _overload_manager(max_heap_mb * 1024 * 1024, max_connections),
        # A cluster's counters are made when it is first used: thousands of models cost little until then.
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
    }
    built = message(bootstrap_pb2.Bootstrap, content)
    return json.dumps(json_format.MessageToDict(built, preserving_proto_field_name=True), indent=2)


def _tunnel_extensions() -> list[dict[str, object]]:
    """What nodes' tunnels need of the process: listeners inside it, and sockets that were opened from the other end."""
    inside = typed("envoy.extensions.bootstrap.internal_listener.v3.InternalListener")
    sockets = typed(
        "envoy.extensions.bootstrap.reverse_tunnel.upstream_socket_interface.v3.UpstreamReverseConnectionSocketInterface",
        stat_prefix="tunnels",
    )
    return [
        {"name": "envoy.bootstrap.internal_listener", "typed_config": inside},
        {"name": "envoy.bootstrap.reverse_tunnel.upstream_socket_interface", "typed_config": sockets},
    ]


def _overload_manager(max_heap_bytes: int, max_connections: int) -> dict[str, object]:
    heap = {
        "name": "envoy.resource_monitors.fixed_heap",
        "typed_config": typed(MONITORS + "fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=max_heap_bytes),
    }
    connections = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": typed(
            MONITORS + "downstream_connections.v3.DownstreamConnectionsConfig",
            max_active_downstream_connections=max_connections,
        ),
    }
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [heap, connections],
        "actions": [
            _when_heap_reaches("envoy.overload_actions.shrink_heap", 0.95),
            _when_heap_reaches("envoy.overload_actions.stop_accepting_requests", 0.98),
        ],
    }


def _when_heap_reaches(action: str, share: float) -> dict[str, object]:
    return {"name": action, "triggers": [{"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": share}}]}
