"""The port that nodes dial: tunnels end here, sessions and joining pass through to the controller untouched.

One address serves all three, told apart by the server name that TLS sends in the clear (SNI).
"""

from pathlib import Path

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2

from gateway.edge.addresses import discovery, endpoints
from gateway.edge.messages import message, typed
from mesh.names import JOIN_NAME, NODE_PREFIX, SESSION_NAME, TUNNEL_NAME

NAME = "nodes"
SESSION, JOIN = "node-session", "node-join"
# What every tunnel calls its group. Requests can be sent to a group as well as to a node, so that a node which called
# its group by another node's id would get that one's requests: no other name is let in.
GROUP = "aiops-nodes"
# How the node's id stands in its certificate, and so in its tunnel: the authority puts it there and nobody else can.
SUBJECT = "CN={}"
PING = "2s"
TLS = "envoy.transport_sockets.tls"


def node_listener(bind: str, port: int, pki: Path) -> listener_pb2.Listener:
    """The listener. A tunnel needs a node's certificate, and announces the node that the certificate names."""
    inspector = {
        "name": "envoy.filters.listener.tls_inspector",
        "typed_config": typed("envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"),
    }
    content = {
        "name": NAME,
        "address": {"socket_address": {"address": bind, "port_value": port}},
        "listener_filters": [inspector],
        "listener_filters_timeout": "5s",
        # A fleet's tunnels must not use up the connections of clients; who has no certificate is gone in five seconds.
        "ignore_global_conn_limit": True,
        "filter_chains": [_tunnels(pki), _passing(SESSION_NAME, SESSION), _passing(JOIN_NAME, JOIN)],
    }
    return message(listener_pb2.Listener, content)


def controller_clusters(session: str, join: str) -> dict[str, cluster_pb2.Cluster]:
    """Where sessions and joining go; each may be several `host:port`, separated by commas."""
    return {name: message(cluster_pb2.Cluster, _plain(name, to)) for name, to in ((SESSION, session), (JOIN, join))}


def node_identity(pki: Path) -> dict[str, object]:
    """The gateway's certificate, and that the other side is a node of this mesh."""
    files = {
        "certificate_chain": {"filename": str(pki / "gateway.crt")},
        "private_key": {"filename": str(pki / "gateway.key")},
    }
    nodes = {"san_type": "URI", "matcher": {"prefix": NODE_PREFIX}}
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [files],
        "validation_context": {
            "trusted_ca": {"filename": str(pki / "ca.crt")},
            "match_typed_subject_alt_names": [nodes],
        },
    }


def _tunnels(pki: Path) -> dict[str, object]:
    tls = typed(
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=True,
        # Nothing may come after the handshake but what the tunnel carries.
        disable_stateless_session_resumption=True,
        common_tls_context=node_identity(pki),
    )
    # The gateway compares what a node announces with what its certificate says; a node's subject is `CN=<node id>`.
    handshake = typed(
        "envoy.extensions.filters.network.reverse_tunnel.v3.ReverseTunnel",
        ping_interval=PING,
        validation={"node_id_format": "%DOWNSTREAM_PEER_SUBJECT%", "cluster_id_format": GROUP},
    )
    return {
        "filter_chain_match": {"server_names": [TUNNEL_NAME]},
        "transport_socket": {"name": TLS, "typed_config": tls},
        "transport_socket_connect_timeout": "5s",
        "filters": [{"name": "envoy.filters.network.reverse_tunnel", "typed_config": handshake}],
    }


def _passing(server_name: str, cluster: str) -> dict[str, object]:
    kind = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    proxy = typed(kind, stat_prefix=cluster, cluster=cluster, idle_timeout="0s", max_connect_attempts=3)
    return {
        "filter_chain_match": {"server_names": [server_name]},
        "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}],
    }


def _plain(name: str, addresses: str) -> dict[str, object]:
    limits = {"max_connections": 16384, "max_pending_requests": 16384}
    return {
        "name": name,
        "type": discovery(addresses),
        "connect_timeout": "2s",
        "dns_lookup_family": "V4_PREFERRED",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [endpoints(addresses)]},
    }
