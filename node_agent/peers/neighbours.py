"""Other nodes as sources of chunks, over mutual TLS: who answers is the node that the controller named."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc
from aiops.nodes.v1 import node_peer_service_pb2 as pb
from aiops.nodes.v1.node_peer_service_pb2_grpc import NodePeerServiceStub

from mesh.rpc.channel import ClientTls, open_channel
from node_agent.cache.model import ArtifactFile
from node_agent.cache.swarm import Holding, NeighbourError

_KEPT_CHANNELS = 32
_ASK_TIMEOUT_S = 2.0
_READ_TIMEOUT_S = 10.0
_SLOWEST_BYTES_PER_S = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Peer:
    """A node that the controller named, and `host:port` where it offers files."""

    node_id: str
    address: str


Ask = Callable[[str, str], Awaitable[Sequence[Peer]]]
"""Asks the controller for peers of a model, saying where this node offers its own files."""


class Neighbours:
    """The nodes around this one. Use from one event loop."""

    def __init__(self, node_id: str, ask: Ask, offered_at: Callable[[], Awaitable[str]], tls: ClientTls) -> None:
        self.node_id = node_id
        self._ask, self._offered_at, self._tls = ask, offered_at, tls
        self._channels: OrderedDict[Peer, grpc.aio.Channel] = OrderedDict()

    async def find(self, model_id: str) -> Sequence["GrpcNeighbour"]:
        """Who has files of the model or fetches them; nobody while the controller is away."""
        peers = await self._ask(model_id, await self._offered_at())
        return [GrpcNeighbour(each.node_id, await self._channel(each)) for each in peers]

    async def aclose(self) -> None:
        """Lets go of every connection."""
        channels, self._channels = self._channels, OrderedDict()
        await asyncio.gather(*(channel.close() for channel in channels.values()))

    async def _channel(self, peer: Peer) -> grpc.aio.Channel:
        channel = self._channels.get(peer)
        if channel is None:
            named = (("grpc.ssl_target_name_override", peer.node_id),)
            channel = self._channels[peer] = open_channel(peer.address, self._tls, options=named)
        self._channels.move_to_end(peer)
        if len(self._channels) > _KEPT_CHANNELS:
            await self._channels.popitem(last=False)[1].close()
        return channel


class GrpcNeighbour:
    """One other node."""

    def __init__(self, node_id: str, channel: grpc.aio.Channel) -> None:
        self.node_id = node_id
        self._stub = NodePeerServiceStub(channel)

    async def holding(self, file: ArtifactFile) -> Holding | None:
        """What it has of the file, None for nothing. NeighbourError."""
        try:
            answer = await self._stub.ListChunks(pb.ListChunksRequest(sha256=file.sha256), timeout=_ASK_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise NeighbourError(_said(error)) from error
        bits = int.from_bytes(answer.chunks, "little")
        chunks = frozenset(index for index in range(file.chunk_count) if bits >> index & 1)
        return Holding(answer.complete, chunks)

    async def read(self, file: ArtifactFile, index: int) -> bytes:
        """One chunk. NeighbourError."""
        offset, length = file.chunk(index)
        request = pb.ReadChunkRequest(sha256=file.sha256, offset=offset, length=length)
        content, limit = bytearray(), _READ_TIMEOUT_S + length / _SLOWEST_BYTES_PER_S
        try:
            async for piece in self._stub.ReadChunk(request, timeout=limit):
                content += piece.content
                if len(content) > length:
                    raise NeighbourError("it sends more than was asked for")
        except grpc.aio.AioRpcError as error:
            raise NeighbourError(_said(error)) from error
        if len(content) < length:
            raise NeighbourError("it does not have the chunk any more")
        return bytes(content)


def _said(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"
