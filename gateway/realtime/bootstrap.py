"""Wires the sockets."""

import asyncio
from collections.abc import AsyncIterable
from contextlib import AsyncExitStack
from datetime import timedelta

import grpc
from aiops.iam.v1 import auth_service_pb2, auth_service_pb2_grpc

from gateway.realtime.controllers import Controllers
from gateway.realtime.hub import Hub
from gateway.realtime.server import RECHECK, Sockets
from gateway.realtime.tail import Tail
from gateway.settings import RealtimeSettings
from gateway.watch.feed import Feed
from mesh.clock import SystemClock
from mesh.events.kafka import Kafka
from mesh.loops import run_loop
from mesh.rpc.addresses import Addresses, follow
from mesh.rpc.channel import ClientTls
from mesh.telemetry import start_telemetry
from mesh.tokens import TokenTrust, TokenVerifier, trusted_keys

AGAIN = timedelta(seconds=1)


async def run(settings: RealtimeSettings, stopping: asyncio.Event) -> None:
    """Serves sockets until `stopping` is set."""
    telemetry = start_telemetry("realtime", settings.observability)
    host, _, port = settings.listen.rpartition(":")
    try:
        async with AsyncExitStack() as stack:
            verifier = TokenVerifier(SystemClock())
            trusted = asyncio.Event()
            trust = _trust(settings, verifier, trusted)
            hub = Hub(Addresses(settings.controller_mesh), lambda: _tls(settings))
            tail, controllers = Tail(Kafka(settings.kafka)), Controllers(Addresses(settings.controller_api), stack)
            sockets = Sockets(verifier, hub, tail, controllers, telemetry)
            loops = [
                run_loop("token trust", trust.step, interval=AGAIN),
                run_loop("conversations", hub.step, interval=AGAIN),
                run_loop("events", tail.step, interval=AGAIN),
                run_loop("tokens of sockets", sockets.recheck, interval=RECHECK),
            ]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(loop) for loop in loops]
                # Before the first keys are known, every token would be refused.
                waiting = [group.create_task(event.wait()) for event in (trusted, stopping)]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                async with sockets.listening(host, int(port)):
                    await stopping.wait()
                for task in (*tasks, *waiting):
                    task.cancel()
    finally:
        telemetry.shutdown()


def _tls(settings: RealtimeSettings) -> ClientTls:
    return ClientTls(settings.pki / "ca.crt", settings.pki / "gateway.crt", settings.pki / "gateway.key")


def _trust(
    settings: RealtimeSettings, verifier: TokenVerifier, trusted: asyncio.Event
) -> Feed[auth_service_pb2.WatchTokenTrustResponse]:
    controllers = Addresses(settings.controller_mesh)

    def watch(controller: grpc.aio.Channel) -> AsyncIterable[auth_service_pb2.WatchTokenTrustResponse]:
        stub = auth_service_pb2_grpc.TokenTrustServiceStub(controller)
        return stub.WatchTokenTrust(auth_service_pb2.WatchTokenTrustRequest())

    def take(state: auth_service_pb2.WatchTokenTrustResponse) -> None:
        keys = {key.kid: (key.n, key.e) for key in state.keys}
        verifier.trust(TokenTrust(trusted_keys(keys), frozenset(state.revoked_token_ids)))
        trusted.set()

    return Feed("token trust", lambda: follow(controllers, _tls(settings), watch), take)
