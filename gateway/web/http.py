"""A small HTTP/1.1 server for what gRPC has no words for, such as uploads as forms. Envoy alone is its client.

One request a connection: there are few, and what was refused half-way needs no reading to its end.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

import h11

log = logging.getLogger(__name__)
READ_BYTES = 64 * 1024
# A client that neither sends nor takes anything for so long is gone.
LONGEST_SILENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request; its body comes as it is read."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered."""

    status: int
    content_type: str
    body: AsyncIterator[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Answer]]


@asynccontextmanager
async def serve_http(host: str, port: int, handler: Handler) -> AsyncIterator[int]:
    """Serves while the block lasts; answers the port."""
    connections = set[asyncio.Task[None]]()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_Connection(reader, writer).serve(handler))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


class _Connection:
    """One connection with its one request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol = h11.Connection(h11.SERVER)

    async def serve(self, handler: Handler) -> None:
        """Reads the request, answers, and closes."""
        try:
            head = await self._next()
            if isinstance(head, h11.Request):
                await self._answer(await handler(_request(head, self._body())))
        except (ConnectionError, TimeoutError, h11.ProtocolError) as error:
            log.info("a request was given up: %s", error or type(error).__name__)
        finally:
            self._writer.close()

    async def _answer(self, answer: Answer) -> None:
        fields = {"content-type": answer.content_type, "connection": "close", **answer.headers}
        await self._send(h11.Response(status_code=answer.status, headers=list(fields.items())))
        async for piece in answer.body:
            await self._send(h11.Data(data=piece))
        await self._send(h11.EndOfMessage())

    async def _body(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self._next(), h11.Data):
            yield bytes(event.data)

    async def _next(self) -> object:
        while (event := self._protocol.next_event()) is h11.NEED_DATA:
            async with asyncio.timeout(LONGEST_SILENCE_S):
                self._protocol.receive_data(await self._reader.read(READ_BYTES))
        return event

    async def _send(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        self._writer.write(self._protocol.send(event) or b"")
        async with asyncio.timeout(LONGEST_SILENCE_S):
            await self._writer.drain()


def _request(head: h11.Request, body: AsyncIterator[bytes]) -> Request:
    target = urlsplit(head.target.decode("latin-1"))
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in head.headers}
    return Request(head.method.decode("latin-1"), target.path, dict(parse_qsl(target.query)), headers, body)
