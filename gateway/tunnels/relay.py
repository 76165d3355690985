"""The way from a model's cluster into a node's tunnel.

A tunnelled replica is an endpoint of its model's cluster like any other, so that balancing, retries and ejection see no
difference. Its address is this internal listener, with the replica's name as endpoint id; the listener sends each
request into the tunnel of the node that the name begins with, and the node finds the engine by the whole name.
"""

from pathlib import Path

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2

from gateway.edge.errors import openai_error
from gateway.edge.messages import message, typed
from gateway.edge.upstreams import KEEPALIVE, PROTOCOL
from gateway.tunnels.doorway import SUBJECT, TLS, node_identity

NAME = "tunnel"
CLUSTER = "tunnels"
# Names the replica to its node: node/deployment/port. Only this listener sets it: clients' x-aiops- headers stay out.
REPLICA = "x-aiops-replica"
# On an answer: no engine has seen the request, so that it may be tried on another replica.
UNREACHED = "x-aiops-unreached"
METADATA = "aiops.tunnel"
AWAY = "the node's tunnel is down; the request reached no engine"


def replica_name(node_id: str, deployment_id: str, port: int) -> str:
    """What a replica is called between gateway and node."""
    return f"{node_id}/{deployment_id}/{port}"


def at_port(name: str, port: int) -> str:
    """The name of the same replica at another of its ports."""
    return f"{name.rpartition('/')[0]}/{port}"


def relay_listener() -> listener_pb2.Listener:
    """The internal listener."""
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=NAME,
        route_config={"name": NAME, "virtual_hosts": [_everything()]},
        early_header_mutation_extensions=[_named()],
        http_filters=[_node(), _router()],
        local_reply_config={"mappers": [_unreached()]},
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
        listener_pb2.Listener, {"name": NAME, "internal_listener": {}, "filter_chains": [{"filters": [network]}]}
    )


def tunnel_cluster(pki: Path) -> cluster_pb2.Cluster:
    """The cluster of all tunnels: its host is the node that a request is for.

    TLS protects only a tunnel's handshake: Envoy then takes the bare socket. So the requests inside speak TLS of their
    own, with the node as the server.
    """
    tls = typed(
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        common_tls_context={**node_identity(pki), "alpn_protocols": ["h2"]},
    )
    http2 = {
        "connection_keepalive": KEEPALIVE,
        "initial_stream_window_size": 1048576,
        "initial_connection_window_size": 16777216,
    }
    host = typed(
        "envoy.extensions.clusters.reverse_connection.v3.ReverseConnectionClusterConfig",
        host_id_format=f"%DYNAMIC_METADATA({METADATA}:node)%",
    )
    many = 100_000
    limits = {"max_connections": many, "max_pending_requests": many, "max_requests": many, "max_retries": many}
    content = {
        "name": CLUSTER,
        "connect_timeout": "2s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.reverse_connection", "typed_config": host},
        "transport_socket": {"name": TLS, "typed_config": tls},
        "typed_extension_protocol_options": {
            PROTOCOL: typed(PROTOCOL, explicit_http_config={"http2_protocol_options": http2})
        },
        "circuit_breakers": {"thresholds": [limits]},
    }
    return message(cluster_pb2.Cluster, content)


def _everything() -> dict[str, object]:
    route = {"cluster": CLUSTER, "timeout": "0s"}
    return {"name": NAME, "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}


def _named() -> dict[str, object]:
    named = {
        "header": {"key": REPLICA, "value": "%DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID%"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    config = typed(
        "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation", mutations=[{"append": named}]
    )
    return {"name": "envoy.http.early_header_mutation.header_mutation", "typed_config": config}


def _node() -> dict[str, object]:
    """Takes the node out of the replica's name, as the node's certificate calls it."""
    found = {
        "metadata_namespace": METADATA,
        "key": "node",
        "regex_value_rewrite": {"pattern": {"regex": "^([^/]*)/.*$"}, "substitution": SUBJECT.format("\\1")},
    }
    config = typed(
        "envoy.extensions.filters.http.header_to_metadata.v3.Config",
        request_rules=[{"header": REPLICA, "on_header_present": found}],
    )
    return {"name": "envoy.filters.http.header_to_metadata", "typed_config": config}


def _router() -> dict[str, object]:
    config = typed("envoy.extensions.filters.http.router.v3.Router", suppress_envoy_headers=True)
    return {"name": "envoy.filters.http.router", "typed_config": config}


def _unreached() -> dict[str, object]:
    """Marks answers of Envoy's own when there was no tunnel (UH) or it could not be used (UF)."""
    mark = {"header": {"key": UNREACHED, "value": "tunnel"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        "filter": {"response_flag_filter": {"flags": ["UH", "UF"]}},
        "headers_to_add": [mark],
        "body_format_override": {"json_format": openai_error(AWAY, "unavailable", kind="server_error")},
    }
