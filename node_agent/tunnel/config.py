"""The configuration of the node's Envoy: a bootstrap that stays, and clusters and routes that follow the workloads.

Envoy reads clusters, routes and certificate from files and watches their directories; each file is replaced whole.
"""

import ipaddress
from collections.abc import Iterable
from pathlib import Path

from mesh.names import GATEWAY, TUNNEL_NAME
from node_agent.tunnel.model import Ends, Engine

BOOTSTRAP, CLUSTERS, ROUTES = "envoy.json", "clusters.json", "routes.json"
# One secret a file.
IDENTITY, TRUST = "identity.json", "trust.json"
# Relative to Envoy's working directory: an absolute path may be too long for a socket.
ADMIN = "admin.sock"
STATISTICS = "engines"
# The words that the gateway knows: the header that names a replica, the one that says no engine saw the request, and
# the one group that every tunnel belongs to.
REPLICA, UNREACHED, GROUP = "x-aiops-replica", "x-aiops-unreached", "aiops-nodes"
_GATEWAY = "gateway"
_TYPES = "type.googleapis.com/envoy."
_HTTP = "extensions.filters.http."
_TLS = "extensions.transport_sockets.tls.v3."
_PROTOCOL = "extensions.upstreams.http.v3.HttpProtocolOptions"
_KEEPALIVE = {"interval": "2s", "timeout": "2s"}
# Engines close idle connections after five seconds; whoever reuses one in that moment loses its request.
_IDLE = {"idle_timeout": "4s"}
_HTTP1: dict[str, object] = {"http_protocol_options": {}}
_HEAP_BYTES = 192 * 1024 * 1024
# Only what cannot have reached an engine is tried again.
_RETRY = {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 2}
_MANY = 65_536


def bootstrap(ends: Ends, directory: Path) -> dict[str, object]:
    """Envoy's start-up file. It holds no key: that is read from the file that `identity` names."""
    dial = _typed(
        "extensions.bootstrap.reverse_tunnel.downstream_socket_interface.v3.DownstreamReverseConnectionSocketInterface",
        stat_prefix="tunnel",
        max_reconnect_backoff="1s",
        maintain_interval="0.5s",
    )
    heap = _typed("extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=_HEAP_BYTES)
    shrink = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": 0.9}}
    return {
        "node": {"id": ends.node_id, "cluster": GROUP},
        "admin": {"address": {"pipe": {"path": ADMIN, "mode": 0o600}}},
        "bootstrap_extensions": [
            {"name": "envoy.bootstrap.reverse_tunnel.downstream_socket_interface", "typed_config": dial}
        ],
        "dynamic_resources": {"cds_config": _file(directory / CLUSTERS)},
        "static_resources": {"listeners": [_listener(ends, directory)], "clusters": [_gateway(ends, directory)]},
        "overload_manager": {
            "refresh_interval": "1s",
            "resource_monitors": [{"name": "envoy.resource_monitors.fixed_heap", "typed_config": heap}],
            "actions": [{"name": "envoy.overload_actions.shrink_heap", "triggers": [shrink]}],
        },
    }


def identity(certificate: Path, key: Path) -> dict[str, object]:
    """The node's certificate; Envoy takes a new one as soon as the file is replaced."""
    pair = {"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(key)}}
    pair["watched_directory"] = {"path": str(certificate.parent)}
    return _resources(_typed(_TLS + "Secret", name="identity", tls_certificate=pair))


def trust(authority: Path) -> dict[str, object]:
    """That the other side is the gateway of this mesh."""
    gateway = {"san_type": "URI", "matcher": {"exact": GATEWAY}}
    context = {
        "trusted_ca": {"filename": str(authority)},
        "watched_directory": {"path": str(authority.parent)},
        "match_typed_subject_alt_names": [gateway],
    }
    return _resources(_typed(_TLS + "Secret", name="trust", validation_context=context))


def clusters(ends: Ends, engines: Iterable[Engine]) -> dict[str, object]:
    """One cluster for each engine's port."""
    ports = {each.port: each for each in engines}
    return _resources(*(_engine_cluster(ends.engine_host, ports[port]) for port in sorted(ports)))


def routes(ends: Ends, engines: Iterable[Engine]) -> dict[str, object]:
    """What each replica's name leads to; any other name leads nowhere."""
    listed = [_route(ends, engine) for engine in sorted(set(engines))]
    everything = {"name": STATISTICS, "domains": ["*"], "routes": listed}
    return _resources(_typed("config.route.v3.RouteConfiguration", name=STATISTICS, virtual_hosts=[everything]))


def _listener(ends: Ends, directory: Path) -> dict[str, object]:
    """Listens at the other end of the connections that it opens; what comes through speaks TLS of its own."""
    tls = _typed(
        _TLS + "DownstreamTlsContext",
        require_client_certificate=True,
        disable_stateless_session_resumption=True,
        common_tls_context=_common_tls(directory, "h2"),
    )
    # The certificate's subject names the node, and the gateway compares the two.
    here = f"rc://CN={ends.node_id}:{GROUP}:aiops@{_GATEWAY}:{ends.connections}"
    return {
        "name": "tunnel",
        "address": {
            "socket_address": {"address": here, "port_value": 0, "resolver_name": "envoy.resolvers.reverse_connection"}
        },
        "listener_filters_timeout": "0s",
        "filter_chains": [
            {
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _connection_manager(directory),
                    }
                ],
            }
        ],
    }


def _connection_manager(directory: Path) -> dict[str, object]:
    router = _typed(_HTTP + "router.v3.Router", suppress_envoy_headers=True)
    return _typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=STATISTICS,
        codec_type="HTTP2",
        rds={"route_config_name": STATISTICS, "config_source": _file(directory / ROUTES)},
        http_filters=[{"name": "envoy.filters.http.router", "typed_config": router}],
        http2_protocol_options={
            "max_concurrent_streams": 1024,
            "initial_stream_window_size": 1048576,
            "initial_connection_window_size": 16777216,
            "connection_keepalive": _KEEPALIVE,
        },
        local_reply_config={"mappers": [_unknown(), _down()]},
        server_header_transformation="PASS_THROUGH",
        generate_request_id=False,
        skip_xff_append=True,
        # The gateway sets the limits.
        max_request_headers_kb=96,
        stream_idle_timeout="0s",
        common_http_protocol_options={"max_headers_count": 200},
    )


def _gateway(ends: Ends, directory: Path) -> dict[str, object]:
    host, _, port = ends.gateway_address.rpartition(":")
    host = host.strip("[]")
    tls = _typed(_TLS + "UpstreamTlsContext", sni=TUNNEL_NAME, common_tls_context=_common_tls(directory))
    cluster = _cluster(_GATEWAY, host, int(port))
    return {
        **cluster,
        "type": "STATIC" if _is_ip(host) else "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "respect_dns_ttl": True,
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
    }


def _common_tls(directory: Path, *alpn: str) -> dict[str, object]:
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [{"name": "identity", "sds_config": _file(directory / IDENTITY)}],
        "validation_context_sds_secret_config": {"name": "trust", "sds_config": _file(directory / TRUST)},
        "alpn_protocols": list(alpn),
    }


def _engine_cluster(host: str, engine: Engine) -> dict[str, object]:
    protocol = {"http2_protocol_options": {"connection_keepalive": _KEEPALIVE}} if engine.grpc else _HTTP1
    common = {**_IDLE, **({"max_requests_per_connection": 1} if engine.single_use else {})}
    options = _typed(_PROTOCOL, common_http_protocol_options=common, explicit_http_config=protocol)
    return {
        **_typed("config.cluster.v3.Cluster"),
        **_cluster(_engine_name(engine.port), host, engine.port),
        "typed_extension_protocol_options": {f"envoy.{_PROTOCOL}": options},
    }


def _cluster(name: str, host: str, port: int) -> dict[str, object]:
    endpoint = {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
    limits = {"max_connections": _MANY, "max_pending_requests": _MANY, "max_requests": _MANY, "max_retries": 64}
    return {
        "name": name,
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }


def _route(ends: Ends, engine: Engine) -> dict[str, object]:
    name = f"{ends.node_id}/{engine.workload_id}/{engine.port}"
    return {
        "match": {"prefix": "/", "headers": [{"name": REPLICA, "string_match": {"exact": name}}]},
        "route": {"cluster": _engine_name(engine.port), "timeout": "0s", "retry_policy": _RETRY},
        "request_headers_to_remove": [REPLICA],
    }


def _engine_name(port: int) -> str:
    return f"engine/{port}"


def _unknown() -> dict[str, object]:
    return _answer("this node runs no such replica, or none any more", "NR", "NC")


def _down() -> dict[str, object]:
    return _answer("the engine does not listen", "UF", "UH")


def _answer(text: str, *flags: str) -> dict[str, object]:
    """What Envoy says by itself, marked so that the gateway tries another replica."""
    mark = {"header": {"key": UNREACHED, "value": "node"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    body = {"error": {"message": text, "type": "server_error", "param": None, "code": "unavailable"}}
    return {
        "filter": {"response_flag_filter": {"flags": list(flags)}},
        "headers_to_add": [mark],
        "body_format_override": {"json_format": body},
    }


def _file(path: Path) -> dict[str, object]:
    watched = {"path": str(path), "watched_directory": {"path": str(path.parent)}}
    return {"path_config_source": watched, "resource_api_version": "V3"}


def _resources(*resources: dict[str, object]) -> dict[str, object]:
    return {"resources": list(resources)}


def _typed(kind: str, **content: object) -> dict[str, object]:
    return {"@type": _TYPES + kind, **content}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
