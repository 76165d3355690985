"""Wires the inference router."""

import asyncio
from datetime import timedelta

from inference_router.routing.feed import ReplicaFeed
from inference_router.routing.rpc import RoutingServicer
from inference_router.routing.service import Routing
from inference_router.routing.store import TableFile
from inference_router.settings import Settings
from mesh.clock import SystemClock
from mesh.loops import run_loop
from mesh.rpc.addresses import Addresses
from mesh.rpc.authenticator import PeerAuthenticator
from mesh.rpc.channel import ClientTls
from mesh.rpc.server import Listener, ServerTls, serve
from mesh.telemetry import start_telemetry

NAME = "inference_router"


async def run(settings: Settings, stopping: asyncio.Event) -> None:
    """Serves the routing table until `stopping` is set."""
    clock = SystemClock()
    telemetry = start_telemetry(NAME, settings.observability)
    routing = Routing(TableFile(settings.state / "table.bin"))
    await routing.restore()
    authority, certificate, key = (settings.pki / name for name in ("ca.crt", f"{NAME}.crt", f"{NAME}.key"))
    listener = Listener(settings.mesh_address, ServerTls(certificate, key, authority))
    try:
        async with serve([listener], [RoutingServicer(routing)], PeerAuthenticator(clock), telemetry.rpc):
            tls = ClientTls(authority, certificate, key)
            feed = ReplicaFeed(Addresses(settings.controller_mesh), tls, routing, clock)
            feed.observe(telemetry.meter)
            await _follow(feed, stopping)
    finally:
        telemetry.shutdown()


async def _follow(feed: ReplicaFeed, stopping: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(run_loop("replica feed", feed.step, interval=timedelta(seconds=1)))
        await stopping.wait()
        loop.cancel()
