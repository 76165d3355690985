"""An upstream that fails in one way: it refuses, breaks, says nothing, talks garbage, or cuts its streams."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

GARBAGE = b"\x00\x16\x03\x01 this is no HTTP \xff\xfe\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(slots=True)
class FaultyEngine:
    """`fault` is a status such as `429`, or one of `hang`, `garbage`, `reset` and `cut`; it may change."""

    name: str
    fault: str
    port: int = 0
    asked: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Fails the requests of one connection."""
        self._open.add(writer)
        try:
            while await _read(reader):
                self.asked += 1
                if not await self._fail(writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _fail(self, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can be used again."""
        if self.fault == "hang":
            await asyncio.Event().wait()
        if self.fault == "reset":
            writer.transport.abort()
            return False
        if self.fault == "garbage":
            writer.write(GARBAGE)
            await writer.drain()
            return False
        if self.fault == "cut":
            event = b'data: {"choices": [{"index": 0, "delta": {"content": "half"}}]}\n\n'
            writer.write(HEAD + b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            writer.close()
            return False
        body = json.dumps({"error": {"message": "no", "type": "server_error", "param": None, "code": None}}).encode()
        head = f"HTTP/1.1 {self.fault} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return True

    def close(self) -> None:
        """Ends every connection."""
        for writer in list(self._open):
            writer.transport.abort()


@asynccontextmanager
async def faulty_engine(name: str, fault: str) -> AsyncIterator[FaultyEngine]:
    """One on a free port of the loopback."""
    engine = FaultyEngine(name, fault)
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
        engine.close()


async def _read(reader: asyncio.StreamReader) -> bool:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))
    return True
