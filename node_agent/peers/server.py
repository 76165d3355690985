"""Offers this node's model files to other nodes, from when there is something to offer."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from mesh.clock import Clock
from mesh.rpc.channel import ClientTls
from mesh.telemetry import Telemetry
from node_agent.cache.service import ModelCache
from node_agent.runtime.ports import bind_host

log = logging.getLogger(__name__)


class PeerServer:
    """Listens on a port, 0 for a free one; others reach it at the node's address and that port."""

    def __init__(self, node_address: str, port: int, tls: ClientTls, clock: Clock, *, enabled: bool = True) -> None:
        self._node_address, self._port, self._tls, self._clock, self._enabled = node_address, port, tls, clock, enabled
        self._starting = asyncio.Lock()
        self._stack: AsyncExitStack | None = None
        self._cache: ModelCache | None = None
        self._telemetry: Telemetry | None = None
        self.address = ""

    @asynccontextmanager
    async def offering(self, cache: ModelCache, telemetry: Telemetry) -> AsyncIterator[None]:
        """Lets the server start when it is asked for, while the block lasts."""
        self._cache, self._telemetry = cache, telemetry
        async with AsyncExitStack() as self._stack:
            try:
                yield
            finally:
                self._cache, self.address = None, ""

    async def start(self) -> str:
        """Where files are offered; starts the server with the first call. Empty when it cannot or must not."""
        async with self._starting:
            if not self.address and self._enabled and self._cache is not None:
                await self._listen(self._cache)
        return self.address

    async def _listen(self, cache: ModelCache) -> None:
        # What a server needs costs 20 MB of memory that a node without a model need not have.
        from mesh.rpc.authenticator import PeerAuthenticator
        from mesh.rpc.credentials import ServerTls
        from mesh.rpc.server import Listener, serve
        from node_agent.peers.rpc import NodePeerServicer

        assert self._stack is not None
        assert self._telemetry is not None
        assert self._tls.certificate is not None
        assert self._tls.key is not None
        tls = ServerTls(self._tls.certificate, self._tls.key, self._tls.authority)
        listener = Listener(f"{_url_host(bind_host(self._node_address))}:{self._port}", tls)
        try:
            serving = serve(
                [listener], [NodePeerServicer(cache)], PeerAuthenticator(self._clock), self._telemetry.rpc, grace=1.0
            )
            server = await self._stack.enter_async_context(serving)
        except (OSError, RuntimeError) as error:
            log.warning("cannot offer files to other nodes on %s: %s", listener.address, error)
            self._enabled = False
            return
        self.address = f"{_url_host(self._node_address)}:{server.ports[0]}"
        log.info("offers files to other nodes at %s", self.address)


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def address_towards(target: str) -> str:
    """This machine's address on the way to `host:port`, loopback when there is no way. Sends nothing."""
    host, _, port = target.rpartition(":")
    try:
        family, kind, _, _, place = socket.getaddrinfo(host.strip("[]"), int(port or 0), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)
            return str(probe.getsockname()[0])
    except (OSError, ValueError):
        return "127.0.0.1"
