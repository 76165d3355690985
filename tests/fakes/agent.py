"""The wire side of a node agent, driven by hand: it says what a test tells it to say."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from aiops.nodes.v1 import node_pb2, node_service_pb2
from aiops.nodes.v1 import node_session_service_pb2 as pb
from aiops.nodes.v1.node_session_service_pb2_grpc import NodeEnrollmentServiceStub, NodeSessionServiceStub

from mesh.pki import create_request
from mesh.rpc.channel import ClientTls, open_channel

if TYPE_CHECKING:
    from aiops.nodes.v1.node_session_service_pb2_grpc import NodeSessionServiceAsyncStub

PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that joined: its node id and where its certificate lies."""

    node_id: str
    home: Path

    @property
    def tls(self) -> ClientTls:
        return ClientTls(self.home / "ca.crt", self.home / "node.crt", self.home / "node.key")

    @asynccontextmanager
    async def stub(self, address: str) -> AsyncIterator["NodeSessionServiceAsyncStub"]:
        """The session service, as this node."""
        async with open_channel(address, self.tls) as channel:
            yield NodeSessionServiceStub(channel)

    @asynccontextmanager
    async def session(self, address: str, first: pb.Hello | None = None) -> AsyncIterator["AgentStream"]:
        """An open stream, after its hello was sent."""
        async with self.stub(address) as stub:
            stream = AgentStream(stub.Connect())
            await stream.say(hello=first or hello(self.node_id))
            try:
                yield stream
            finally:
                stream.call.cancel()


class AgentStream:
    """One stream to the controller."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]") -> None:
        self.call = call

    async def say(self, **message: Any) -> None:
        """Sends one message, e.g. `say(heartbeat=…)`."""
        await self.call.write(pb.ConnectRequest(**message))

    async def hear(self) -> pb.ConnectResponse:
        """The next answer. AioRpcError when the stream ended by an error; EOFError when it just ended."""
        async with asyncio.timeout(PATIENCE_S):
            message = await self.call.read()
        if not isinstance(message, pb.ConnectResponse):
            raise EOFError("the controller ended the stream")
        return message

    async def welcome(self) -> pb.Welcome:
        """The first answer, once it is this node's turn."""
        while (first := await self.hear()).HasField("waiting"):
            pass
        return first.welcome

    async def beat(self, welcome: pb.Welcome, **fields: Any) -> pb.HeartbeatAck:
        """A heartbeat and its answer."""
        await self.say(heartbeat=pb.Heartbeat(session_epoch=welcome.session_epoch, **fields))
        return (await self.hear()).heartbeat_ack


def hello(node_id: str, **fields: Any) -> pb.Hello:
    """How a machine with one GPU introduces itself."""
    device = node_pb2.GpuDevice(device_id="0", model="Tesla P40", memory_total=24576, memory_free=24000)
    inventory = pb.Inventory(
        gpu_devices=[device], cpu_cores=8, ram_total=32000, ram_free=16000, disk_total=100000, disk_free=50000
    )
    said: dict[str, Any] = {
        "address": "127.0.0.1",
        "agent_version": "0.1.0",
        "runtimes": ["process"],
        "engines": ["transformers"],
    }
    return pb.Hello(**{"node_id": node_id, "boot_id": "boot-1", "inventory": inventory, **said, **fields})


async def join(invited: node_service_pb2.RegisterNodeResponse, address: str, home: Path) -> Machine:
    """Trades the token for a certificate, as `aiops node join` does."""
    secret, authority = open_token(invited.join_token)
    request = create_request()
    _keep(home, {"ca.crt": authority.encode(), "node.key": request.key_pem})
    async with open_channel(address, ClientTls(home / "ca.crt")) as channel:
        answer = await NodeEnrollmentServiceStub(channel).Join(
            pb.JoinRequest(token=secret, certificate_request=request.der)
        )
    _keep(home, {"node.crt": answer.certificate.encode()})
    return Machine(answer.node_id, home)


def open_token(token: str) -> tuple[str, str]:
    """The secret and the authority's certificate in a join token."""
    content = json.loads(base64.urlsafe_b64decode(token))
    return str(content["secret"]), str(content["ca"])


def _keep(home: Path, files: dict[str, bytes]) -> None:
    home.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (home / name).write_bytes(content)
