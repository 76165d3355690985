"""A gRPC server with the platform's layers, health and reflection."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mesh.errors import UnavailableError
from mesh.rpc import layers
from mesh.rpc.call import Authenticator, Call, Layer, Method, Proceed
from mesh.rpc.credentials import ServerTls, server_credentials

__all__ = ["Listener", "Server", "ServerTls", "layer_list", "serve", "service_of"]

log = logging.getLogger(__name__)

# How long calls that were cut off may take to clean up.
CLEANUP_S = 2.0
MIB = 1024 * 1024
OPTIONS: list[tuple[str, int]] = [
    # A peer that is gone without a word is found within 4 s.
    ("grpc.keepalive_time_ms", 1_500),
    ("grpc.keepalive_timeout_ms", 2_000),
    # gRPC core 1.85 waits this long for the answer to a ping, whatever keepalive_timeout says (measured).
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_receive_message_length", 4 * MIB),
    ("grpc.max_send_message_length", 64 * MIB),
    ("grpc.max_metadata_size", 32 * 1024),
    ("grpc.so_reuseport", 0),
]


@dataclass(frozen=True, slots=True)
class Listener:
    """Where to listen: `host:port` (port 0 for a free one) or `unix:/path`."""

    address: str
    tls: ServerTls | None = None


class InFlight:
    """The calls that a server is serving, and whether it takes no more."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Counts the present task while the block lasts."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    async def ended(self, at_most: float) -> None:
        """Waits until every call has put back what it took: connections, locks, files."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=at_most)


class Server:
    """A running server."""

    def __init__(self, server: grpc.aio.Server, ports: tuple[int, ...], calls: InFlight) -> None:
        self._server = server
        self._calls = calls
        self.ports = ports

    async def wait(self) -> None:
        """Returns when the server has ended."""
        await self._server.wait_for_termination()

    async def stop(self, grace: float) -> None:
        """Takes no new calls, ends streams, lets unary calls finish for `grace` seconds."""
        self._calls.draining.set()
        await self._server.stop(grace)
        await self._calls.ended(CLEANUP_S)


@asynccontextmanager
async def serve(
    listeners: Sequence[Listener],
    servicers: Sequence[object],
    authenticator: Authenticator,
    telemetry: layers.RpcTelemetry,
    *,
    grace: float = 5.0,
) -> AsyncIterator[Server]:
    """Serves until the block ends, then drains. `ports` are in the order of the listeners (0 for a unix socket)."""
    calls = InFlight()
    chain = layer_list(authenticator, telemetry)
    server = grpc.aio.server(options=OPTIONS)
    names = [_register(server, servicer, chain, calls) for servicer in servicers]
    checker = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    ports = tuple(_listen(server, listener) for listener in listeners)
    await server.start()
    for name in ["", *names]:
        await checker.set(name, health_pb2.HealthCheckResponse.SERVING)
    running = Server(server, ports, calls)
    try:
        yield running
    finally:
        await checker.enter_graceful_shutdown()
        await running.stop(grace)


def layer_list(authenticator: Authenticator, telemetry: layers.RpcTelemetry) -> list[Layer]:
    """The layers in their order, each with the reason for its place."""
    return [
        layers.request_id,  # first, so that everything after it can name the call
        layers.telemetry(telemetry),  # sees the final status of every call, refused ones too
        layers.errors,  # turns whatever the layers below raise into a status
        layers.deadline,  # bounds authentication and everything after it
        layers.authentication(authenticator),  # before authorisation, which needs the caller
        layers.authorisation,  # before validation, so that a stranger learns nothing of the contract's rules
        layers.validation,  # last: the servicer sees only decoded, valid requests
    ]


def _register(server: grpc.aio.Server, servicer: object, chain: list[Layer], calls: InFlight) -> str:
    service = service_of(servicer)
    handlers = {
        method.name: _handler(Method.of(method), getattr(servicer, method.name), chain, calls)
        for method in service.methods
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
    return service.full_name


def service_of(servicer: object) -> ServiceDescriptor:
    """The contract that a servicer implements, found by the generated class it derives from."""
    for base in type(servicer).__mro__:
        if base.__module__.endswith("_pb2_grpc") and base.__name__.endswith("Servicer"):
            file = base.__module__.removesuffix("_grpc").removesuffix("_pb2").replace(".", "/") + ".proto"
            services: Mapping[str, ServiceDescriptor] = descriptor_pool.Default().FindFileByName(file).services_by_name
            return services[base.__name__.removesuffix("Servicer")]
    raise TypeError(f"{type(servicer).__name__} derives from no generated servicer")


def _handler(
    method: Method, serve_call: Callable[..., Any], chain: list[Layer], calls: InFlight
) -> "grpc.RpcMethodHandler[Any, Any]":
    if not method.server_streams:
        run = layers.compose(chain, _answer_once(serve_call))
        make = grpc.stream_unary_rpc_method_handler if method.client_streams else grpc.unary_unary_rpc_method_handler
    else:
        run = layers.compose(chain, _until_drained(_answer_many(serve_call), calls.draining))
        make = grpc.stream_stream_rpc_method_handler if method.client_streams else grpc.unary_stream_rpc_method_handler
    return make(_entry(method, run, calls), response_serializer=_serialize)


def _entry(method: Method, run: Proceed, calls: InFlight) -> Callable[[Any, Any], Any]:
    async def entry(request: Any, context: Any) -> Any:
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        with calls.serving():
            return await run(Call(method, context, request, metadata))

    return entry


def _answer_once(serve_call: Callable[..., Any]) -> Proceed:
    async def answer(call: Call) -> Any:
        return await serve_call(call.request, call.context)

    return answer


def _answer_many(serve_call: Callable[..., Any]) -> Proceed:
    async def answer(call: Call) -> None:
        # A client that goes away while we write must not leave the servicer's cleanup to the garbage collector.
        async with aclosing(serve_call(call.request, call.context)) as messages:
            async for message in messages:
                await call.context.write(message)

    return answer


def _until_drained(answer: Proceed, draining: asyncio.Event) -> Proceed:
    """Streams end when the server drains; their clients reconnect to another replica or to the next start."""

    async def run(call: Call) -> None:
        stream = asyncio.ensure_future(answer(call))
        drained = asyncio.ensure_future(draining.wait())
        try:
            await asyncio.wait({stream, drained}, return_when=asyncio.FIRST_COMPLETED)
            if not stream.done():
                raise UnavailableError("the server is shutting down; connect again")
            stream.result()
        finally:
            for task in (stream, drained):
                task.cancel()
            await asyncio.gather(stream, drained, return_exceptions=True)

    return run


def _serialize(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized


def _listen(server: grpc.aio.Server, listener: Listener) -> int:
    if listener.tls is None:
        return server.add_insecure_port(listener.address)
    return server.add_secure_port(listener.address, server_credentials(listener.tls))
