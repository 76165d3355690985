"""The supervisor's hand-written health check agrees with a real gRPC server."""

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from stack.grpc_health import serving_missing
from stack.ports import free_port


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (health_pb2.HealthCheckResponse.SERVING, ""),
        (health_pb2.HealthCheckResponse.NOT_SERVING, "says that it does not"),
    ],
)
async def test_says_what_the_server_says(status: int, expected: str) -> None:
    server = grpc.aio.server()
    checker = health.aio.HealthServicer()
    await checker.set("", status)
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    missing = await serving_missing(port)
    assert expected in missing if expected else not missing
    await server.stop(0)


async def test_a_server_without_health_service_does_not_serve() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert await serving_missing(port) == f"127.0.0.1:{port} does not answer a gRPC health check"
    await server.stop(0)


async def test_a_port_without_server_does_not_serve() -> None:
    port = free_port()
    assert await serving_missing(port) == f"nothing listens on 127.0.0.1:{port}"
