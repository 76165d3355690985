"""The public listener: one port for HTTP/1.1, HTTP/2, gRPC and gRPC-Web, with the settings of an edge."""

from pathlib import Path

from envoy.config.listener.v3 import listener_pb2

from gateway.edge import filters
from gateway.edge.counting import access_log
from gateway.edge.errors import local_replies
from gateway.edge.messages import message, typed

NAME = "public"
BUFFER_LIMIT = 32 * 1024


def public_listener(
    bind: str, port: int, certificate: str = "", key: str = "", journal: Path | None = None
) -> listener_pb2.Listener:
    """The listener of the one public port; with a certificate (PEM files that Envoy reads) it speaks TLS alone.

    What requests used is written to the journal, if there is one.
    """
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": _connection_manager(journal)}
    chain = {"filters": [network]} | ({"transport_socket": _tls(certificate, key)} if certificate else {})
    content = {
        "name": NAME,
        "address": {"socket_address": {"address": bind, "port_value": port}},
        "per_connection_buffer_limit_bytes": BUFFER_LIMIT,
        "filter_chains": [chain],
    }
    return message(listener_pb2.Listener, content)


def _connection_manager(journal: Path | None) -> dict[str, object]:
    return typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=NAME,
        rds={"route_config_name": NAME, "config_source": {"ads": {}, "resource_api_version": "V3"}},
        http_filters=filters.chain(),
        local_reply_config=local_replies(),
        access_log=[access_log(journal)] if journal else [],
        early_header_mutation_extensions=[_early_headers()],
        server_name="aiops",
        always_set_request_id_in_response=True,
        use_remote_address=True,
        internal_address_config={},
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="UNESCAPE_AND_REDIRECT",
        common_http_protocol_options={
            "idle_timeout": "3600s",
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": 100,
        },
        http2_protocol_options={
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1048576,
            "connection_keepalive": {"interval": "30s", "timeout": "10s"},
        },
        max_request_headers_kb=60,
        # Whole requests have no limit in time here: streams share the port. Routes set theirs.
        stream_idle_timeout="300s",
        request_headers_timeout="10s",
        upgrade_configs=[{"upgrade_type": "websocket", "enabled": False}],
    )


def _tls(certificate: str, key: str) -> dict[str, object]:
    files = {"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}
    context = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [files],
        "alpn_protocols": ["h2", "http/1.1"],
    }
    config = typed("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context=context)
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


def _early_headers() -> dict[str, object]:
    """Headers that only the mesh or Envoy may set never get in; what sort of call it is gets noted."""
    call = {
        "header": {"key": "x-aiops-call", "value": "%REQ(content-type)%"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    mutations = [
        {"remove_on_match": {"key_matcher": {"prefix": "x-aiops-"}}},
        {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
        {"append": call},
    ]
    config = typed("envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation", mutations=mutations)
    return {"name": "envoy.http.early_header_mutation.header_mutation", "typed_config": config}
