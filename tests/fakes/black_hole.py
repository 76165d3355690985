"""A TCP relay in a process of its own: once frozen, it is a peer that is gone without a word."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_PROGRAM = str(Path(__file__).resolve())


class BlackHole:
    """Forwards to an address until it is frozen. `address` is where clients connect."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self._process = process
        self.address = address

    def freeze(self) -> None:
        """From now on bytes go in and nothing comes out; connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Forwards again, what was held back first."""
        self._process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def black_hole(target: str) -> AsyncIterator[BlackHole]:
    """A relay to `host:port`, gone at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        _PROGRAM,
        target,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        port = (await process.stdout.readline()).decode().strip()
        yield BlackHole(process, f"127.0.0.1:{port}")
    finally:
        process.kill()
        await process.wait()


async def _relay(target: str) -> None:
    host, _, port = target.rpartition(":")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(_relay(sys.argv[1]))
