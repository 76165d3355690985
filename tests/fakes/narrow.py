"""A TCP relay that lets so many bytes through and then holds the rest, or cuts the connections."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Narrow:
    """Forwards to an address. `passed` is how much came from there; what is beyond `most` waits until `widen`."""

    def __init__(self, target: str, most: int) -> None:
        self._host, _, port = target.rpartition(":")
        self._port, self._most = int(port), most
        self._wider = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.passed = 0
        self.address = ""

    def widen(self) -> None:
        """From now on everything comes through."""
        self._wider.set()

    def cut(self) -> None:
        """Ends every connection that there is; new ones are taken."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, far_writer}
        ways = [
            asyncio.ensure_future(self._copy(reader, far_writer)),
            asyncio.ensure_future(self._copy(far_reader, writer, narrow=True)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            self._writers -= {writer, far_writer}
            for each in (writer, far_writer):
                each.close()
            self._tasks.discard(task)

    async def close(self) -> None:
        """Ends all that is left."""
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, narrow: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(16 * 1024):
                if narrow and self.passed + len(data) > self._most:
                    await self._wider.wait()
                if narrow:
                    self.passed += len(data)
                writer.write(data)
                await writer.drain()


@contextlib.asynccontextmanager
async def narrow(target: str, most: int) -> AsyncIterator[Narrow]:
    """A relay to `host:port`, gone at the end of the block."""
    relay = Narrow(target, most)
    server = await asyncio.start_server(relay.connected, "127.0.0.1", 0)
    relay.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        server.close()
        await relay.close()
