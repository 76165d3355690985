"""Clusters: the controller's API, and what every gRPC upstream shares."""

from envoy.config.cluster.v3 import cluster_pb2

from gateway.edge.addresses import discovery, endpoints
from gateway.edge.messages import message, typed

API = "controller-api"
# The gateway's own server of what gRPC has no words for.
WEB = "gateway-web"
REALTIME = "realtime"
PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# A black-holed peer is found in less than five seconds.
KEEPALIVE = {"interval": "2s", "timeout": "2s"}


def grpc_cluster(name: str, address: str) -> dict[str, object]:
    """A gRPC upstream with keepalive; `address` may be several, separated by commas."""
    http2 = {
        "connection_keepalive": KEEPALIVE,
        "initial_stream_window_size": 1048576,
        "initial_connection_window_size": 4194304,
    }
    options = typed(PROTOCOL, explicit_http_config={"http2_protocol_options": http2})
    limits = {"max_connections": 1024, "max_pending_requests": 4096, "max_requests": 8192, "max_retries": 64}
    return {
        "name": name,
        "type": discovery(address),
        "connect_timeout": "2s",
        "dns_lookup_family": "V4_PREFERRED",
        "per_connection_buffer_limit_bytes": 32768,
        "typed_extension_protocol_options": {PROTOCOL: options},
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [endpoints(address)]},
    }


def api_cluster(address: str) -> cluster_pb2.Cluster:
    """The controllers' API."""
    return message(cluster_pb2.Cluster, grpc_cluster(API, address))


def web_cluster(host: str, port: int) -> cluster_pb2.Cluster:
    """The gateway's own HTTP server."""
    content = {
        "name": WEB,
        "type": "STATIC",
        "connect_timeout": "2s",
        "per_connection_buffer_limit_bytes": 32768,
        "load_assignment": {"cluster_name": WEB, "endpoints": [endpoints(f"{host}:{port}")]},
    }
    return message(cluster_pb2.Cluster, content)


def realtime_cluster(addresses: str) -> cluster_pb2.Cluster:
    """Where sockets are served; a process that does not answer is passed over."""
    content = {
        "name": REALTIME,
        "type": discovery(addresses),
        "connect_timeout": "1s",
        "dns_lookup_family": "V4_PREFERRED",
        # In turn, so that what one does not take goes to the next; the one with the least to do may be the dead one.
        "lb_policy": "ROUND_ROBIN",
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "no_traffic_interval": "1s",
                "http_health_check": {"path": "/healthz"},
            }
        ],
        "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_requests": 100_000}]},
        "load_assignment": {"cluster_name": REALTIME, "endpoints": [endpoints(addresses)]},
    }
    return message(cluster_pb2.Cluster, content)
