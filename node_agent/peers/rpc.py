"""The servicer that gives model files to other nodes."""

import asyncio
from collections.abc import AsyncIterator

from aiops.nodes.v1 import node_peer_service_pb2 as pb
from aiops.nodes.v1.node_peer_service_pb2_grpc import NodePeerServiceServicer

from mesh.errors import ExhaustedError, NotFoundError
from mesh.rpc.context import Context
from node_agent.cache.service import ModelCache

# A node serves engines first; who is refused reads elsewhere.
SERVED_AT_ONCE = 8
_PIECE = 1024 * 1024


class NodePeerServicer(NodePeerServiceServicer):
    """Gives what the cache has, and what is just arriving there."""

    def __init__(self, cache: ModelCache) -> None:
        self._cache = cache
        self._serving = 0

    async def ListChunks(self, request: pb.ListChunksRequest, context: Context) -> pb.ListChunksResponse:
        holding = self._cache.holding(request.sha256)
        if holding is None:
            raise NotFoundError(f"nothing is here of the file {request.sha256}")
        bits = sum(1 << index for index in holding.chunks)
        return pb.ListChunksResponse(
            complete=holding.complete, chunks=bits.to_bytes((bits.bit_length() + 7) // 8, "little")
        )

    async def ReadChunk(self, request: pb.ReadChunkRequest, context: Context) -> AsyncIterator[pb.ReadChunkResponse]:
        content = await self._read(request)
        for start in range(0, len(content), _PIECE):
            yield pb.ReadChunkResponse(content=content[start : start + _PIECE])

    async def _read(self, request: pb.ReadChunkRequest) -> bytes:
        if self._serving >= SERVED_AT_ONCE:
            raise ExhaustedError(f"{SERVED_AT_ONCE} other nodes are being served; ask another one")
        read = self._cache.reader(request.sha256, request.offset, request.length)
        self._serving += 1
        try:
            return await asyncio.to_thread(read) if read else b""
        except FileNotFoundError:
            return b""
        finally:
            self._serving -= 1
