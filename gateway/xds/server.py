"""The server that Envoys connect to. It is no part of the mesh: plain gRPC on an address that only Envoys reach."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.load_stats.v3 import lrs_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gateway.load.rpc import LoadReportingServicer
from gateway.xds.rpc import DiscoveryServicer

OPTIONS = [
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    # An Envoy that reconnects lists the versions of everything it has.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
]


@asynccontextmanager
async def serve(
    address: str, servicer: DiscoveryServicer, loads: LoadReportingServicer | None = None
) -> AsyncIterator[int]:
    """Serves at `host:port` or `unix:/path` while the block lasts; yields the port. Envoys keep what they have."""
    server = grpc.aio.server(options=OPTIONS)
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(servicer, server)
    if loads is not None:
        lrs_pb2_grpc.add_LoadReportingServiceServicer_to_server(loads, server)
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0.5)
