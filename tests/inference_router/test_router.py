"""The router as a process: what the controller says reaches the gateway, and stays while the controller is away."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from aiops.deployments.v1 import deployment_service_pb2 as deployments_pb
from aiops.routing.v1 import routing_service_pb2 as pb
from aiops.routing.v1.routing_service_pb2_grpc import RoutingServiceStub

from mesh.clock import SystemClock
from mesh.pki import NODE_LIFETIME, SpiffeId, create_request, ensure_authority, issue_service
from mesh.rpc.authenticator import PeerAuthenticator
from mesh.rpc.channel import ClientTls, open_channel
from mesh.rpc.server import Listener, ServerTls, serve
from mesh.telemetry import Telemetry
from stack.ports import free_port
from tests.fakes.control_plane import Feed
from tests.fakes.replicas import Replicas

ROOT = Path(__file__).parents[2]
WAIT_S = 20


class Mesh:
    """Certificates, addresses and the newest replicas of one test."""

    def __init__(self, home: Path, telemetry: Telemetry) -> None:
        self.home = home
        self.pki = home / "pki"
        self.telemetry = telemetry
        self.controller = f"127.0.0.1:{free_port()}"
        self.router = f"127.0.0.1:{free_port()}"
        self.metrics = free_port()
        self.replicas: Feed[deployments_pb.WatchReplicasResponse] = Feed()
        for name in ("controller", "inference_router", "gateway"):
            issue_service(self.pki, name)

    async def running(self, *deployments: str) -> None:
        await self.replicas.set(deployments_pb.WatchReplicasResponse(replicas=[replica(each) for each in deployments]))

    @asynccontextmanager
    async def serving_controller(self) -> AsyncIterator[None]:
        tls = ServerTls(self.pki / "controller.crt", self.pki / "controller.key", self.pki / "ca.crt")
        authenticator = PeerAuthenticator(SystemClock())
        listeners = [Listener(self.controller, tls)]
        async with serve(listeners, [Replicas(self.replicas)], authenticator, self.telemetry.rpc, grace=0.1):
            yield

    @asynccontextmanager
    async def running_router(self) -> AsyncIterator[asyncio.subprocess.Process]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
            "AIOPS_HOME": str(self.home),
            "AIOPS_ROUTER_MESH": self.router,
            "AIOPS_CONTROLLER_MESH": self.controller,
            "AIOPS_METRICS_PORT": str(self.metrics),
        }
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "inference_router", env=environment)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), WAIT_S) == 0

    @asynccontextmanager
    async def watching(self, name: str = "gateway") -> AsyncIterator["Tables"]:
        tls = ClientTls(self.pki / "ca.crt", self.pki / f"{name}.crt", self.pki / f"{name}.key")
        async with open_channel(self.router, tls) as channel:
            stub = RoutingServiceStub(channel)
            yield Tables(stub.WatchRoutingTable(pb.WatchRoutingTableRequest(), wait_for_ready=True))


class Tables:
    """The tables that a watcher receives."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def next(self) -> pb.RoutingTable:
        message = await asyncio.wait_for(self._stream.read(), WAIT_S)
        table: pb.RoutingTable = message.table
        return table

    async def until(self, *deployments: str) -> pb.RoutingTable:
        while deployments_of(table := await self.next()) != list(deployments):
            pass
        return table


def replica(deployment_id: str, port: int = 8001) -> deployments_pb.Replica:
    return deployments_pb.Replica(
        deployment_id=deployment_id,
        instance_id=f"i-{deployment_id}",
        org_id="acme",
        model_name="tiny",
        node_id="n1",
        address="127.0.0.1",
        port=port,
        epoch=1,
        inference_path="/v1/chat/completions",
        created=1.0,
    )


def deployments_of(table: pb.RoutingTable) -> list[str]:
    return [target.deployment_id for route in table.routes for target in route.targets]


@pytest.fixture
def mesh(tmp_path: Path, telemetry: Telemetry) -> Mesh:
    return Mesh(tmp_path, telemetry)


async def test_the_table_follows_the_controller_and_outlives_it_and_a_restart(mesh: Mesh) -> None:
    await mesh.running("d1")
    async with mesh.running_router():
        async with mesh.serving_controller(), mesh.watching() as tables:
            first = await tables.until("d1")
            await mesh.running("d1", "d2")
            second = await tables.until("d1", "d2")
            assert second.version > first.version
        async with mesh.watching() as tables:
            assert deployments_of(await tables.next()) == ["d1", "d2"], "the controller is away"
        async with httpx.AsyncClient() as client:
            scraped = (await client.get(f"http://127.0.0.1:{mesh.metrics}/metrics")).text
        assert "routing_targets 2.0" in scraped
        assert "routing_staleness_seconds 0.0\n" not in scraped
    async with mesh.running_router(), mesh.watching() as tables:
        restored = await tables.next()
        assert (deployments_of(restored), restored.version) == (["d1", "d2"], second.version)
        await mesh.running("d2")
        async with mesh.serving_controller():
            assert (await tables.until("d2")).version > second.version


async def test_without_any_table_a_watcher_waits_instead_of_hearing_of_none(mesh: Mesh) -> None:
    async with mesh.running_router(), mesh.watching() as tables:
        waiting = asyncio.ensure_future(tables.next())
        done, _ = await asyncio.wait({waiting}, timeout=1.0)
        assert not done
        await mesh.running()
        async with mesh.serving_controller():
            assert deployments_of(await waiting) == []


async def test_only_services_may_watch(mesh: Mesh) -> None:
    request = create_request()
    authority = ensure_authority(mesh.pki)
    issued = authority.issue_from_request(request.der, SpiffeId("node", "n1"), NODE_LIFETIME)
    (mesh.pki / "n1.crt").write_bytes(issued.pem)
    (mesh.pki / "n1.key").write_bytes(request.key_pem)
    async with mesh.running_router(), mesh.watching("n1") as tables:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await tables.next()
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
