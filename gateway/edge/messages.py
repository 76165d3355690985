"""Envoy messages written as its documentation writes them: nested mappings with `@type` where any extension fits."""

from importlib import import_module
from typing import Any, TypeVar

from google.protobuf import any_pb2, json_format
from google.protobuf.message import Message

from gateway.edge.declared import declare

M = TypeVar("M", bound=Message)
PREFIX = "type.googleapis.com/"
# What the types of HTTP filters begin with.
HTTP = "envoy.extensions.filters.http."

# Imported so that `@type` finds the messages in them.
EXTENSIONS = tuple(
    import_module(f"envoy.{name}_pb2")
    for name in (
        "extensions.access_loggers.filters.cel.v3.cel",
        "extensions.access_loggers.file.v3.file",
        "extensions.bootstrap.internal_listener.v3.internal_listener",
        "extensions.bootstrap.reverse_tunnel.upstream_socket_interface.v3.upstream_reverse_connection_socket_interface",
        "extensions.clusters.aggregate.v3.cluster",
        "extensions.clusters.reverse_connection.v3.reverse_connection",
        "extensions.common.matching.v3.extension_matcher",
        "extensions.filters.common.matcher.action.v3.skip_action",
        "extensions.filters.http.composite.v3.composite",
        "extensions.filters.http.cors.v3.cors",
        "extensions.filters.http.credential_injector.v3.credential_injector",
        "extensions.filters.http.grpc_field_extraction.v3.config",
        "extensions.filters.http.grpc_http1_reverse_bridge.v3.config",
        "extensions.filters.http.grpc_json_reverse_transcoder.v3.transcoder",
        "extensions.filters.http.grpc_json_transcoder.v3.transcoder",
        "extensions.filters.http.grpc_web.v3.grpc_web",
        "extensions.filters.http.header_mutation.v3.header_mutation",
        "extensions.filters.http.header_to_metadata.v3.header_to_metadata",
        "extensions.filters.http.json_to_metadata.v3.json_to_metadata",
        "extensions.filters.http.jwt_authn.v3.config",
        "extensions.filters.http.local_ratelimit.v3.local_rate_limit",
        "extensions.filters.http.lua.v3.lua",
        "extensions.filters.http.rbac.v3.rbac",
        "extensions.filters.http.router.v3.router",
        "extensions.filters.http.upstream_codec.v3.upstream_codec",
        "extensions.filters.listener.tls_inspector.v3.tls_inspector",
        "extensions.filters.network.http_connection_manager.v3.http_connection_manager",
        "extensions.filters.network.reverse_tunnel.v3.reverse_tunnel",
        "extensions.filters.network.tcp_proxy.v3.tcp_proxy",
        "extensions.http.injected_credentials.generic.v3.generic",
        "extensions.http.early_header_mutation.header_mutation.v3.header_mutation",
        "extensions.rate_limit_descriptors.expr.v3.expr",
        "extensions.resource_monitors.downstream_connections.v3.downstream_connections",
        "extensions.resource_monitors.fixed_heap.v3.fixed_heap",
        "extensions.retry.host.previous_hosts.v3.previous_hosts",
        "extensions.transport_sockets.tls.v3.tls",
        "extensions.upstreams.http.v3.http_protocol_options",
        "type.matcher.v3.http_inputs",
    )
)
# What has no Python class at all goes by its JSON names.
TYPED_STRUCT = import_module("xds.type.v3.typed_struct_pb2")
declare()


def message(kind: type[M], content: dict[str, Any]) -> M:
    """Builds a message from a mapping; a name or a type that Envoy does not know raises `ParseError`."""
    built = kind()
    json_format.ParseDict(content, built)
    return built


def packed(built: Message) -> any_pb2.Any:
    """The message as an `Any`, with the same bytes for the same content."""
    return any_pb2.Any(type_url=PREFIX + built.DESCRIPTOR.full_name, value=built.SerializeToString(deterministic=True))


def typed(kind: str, /, **content: object) -> dict[str, object]:
    """An extension's configuration as a mapping, e.g. `typed("envoy.extensions.filters.http.router.v3.Router")`."""
    return {"@type": PREFIX + kind, **content}
