"""The supervisor's hand-written health check agrees with a real gRPC server."""

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from stack.grpc_health import serving
from stack.ports import free_port


@pytest.mark.parametrize(
    ("status", "expected"),
    [(health_pb2.HealthCheckResponse.SERVING, True), (health_pb2.HealthCheckResponse.NOT_SERVING, False)],
)
async def test_says_what_the_server_says(status: int, expected: bool) -> None:
    server = grpc.aio.server()
    checker = health.aio.HealthServicer()
    await checker.set("", status)
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert await serving(port) is expected
    await server.stop(0)


async def test_a_server_without_health_service_does_not_serve() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert not await serving(port)
    await server.stop(0)


async def test_a_port_without_server_does_not_serve() -> None:
    assert not await serving(free_port())
