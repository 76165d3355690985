"""An inference engine as the gateway sees one: HTTP/1.1 that echoes chats, streams, refuses and holds on request."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Engine:
    """The engine's record of requests; `release` lets held answers and streams go on."""

    name: str
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    connections: set[asyncio.StreamWriter] = field(default_factory=set)
    # What is wrong with it: every answer comes so late, is a server's error, or never comes before `release`.
    delay_s: float = 0.0
    failing: bool = False
    silent: bool = False
    # Says that it keeps connections, and ends each at its second request.
    closing: bool = False
    arrivals: list[float] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the requests of one connection."""
        self.connections.add(writer)
        answered = 0
        try:
            while (request := await _read_request(reader)) is not None:
                self.seen.append(request)
                self.arrivals.append(time.time())
                self.arrived.set()
                if self.closing and answered:
                    break
                await self._suffer()
                await self._answer(request, writer)
                await writer.drain()
                answered += 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections.discard(writer)
            writer.close()

    async def _suffer(self) -> None:
        if self.silent:
            await self.release.wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)

    async def _answer(self, request: Seen, writer: asyncio.StreamWriter) -> None:
        asked = _parsed(request.body)
        messages = asked.get("messages") or [{}]
        text = messages[-1].get("content", "") if isinstance(messages[-1], dict) else ""
        if self.failing:
            _write(writer, 500, {"error": {"message": "out of memory", "type": "server_error"}})
        elif asked.get("stream") and text != "refuse":
            await self._stream(writer, asked, str(text))
        elif text == "refuse":
            error = {
                "error": {
                    "message": "the prompt is too long",
                    "type": "invalid_request_error",
                    "param": None,
                    "code": None,
                }
            }
            _write(writer, 400, error)
        elif str(text).startswith("vectors "):
            numbers = [0] * int(str(text).split()[1])
            _write(writer, 200, {"object": "list", "data": numbers, "usage": {"prompt_tokens": 8, "total_tokens": 8}})
        else:
            if text == "hold":
                await self.release.wait()
            _write(writer, 200, self._completion(asked, str(text), request.path))

    async def _stream(self, writer: asyncio.StreamWriter, asked: dict[str, Any], text: str) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        words = text.split() or ["hello"]
        for index, word in enumerate(words):
            if index == len(words) - 1:
                await self.release.wait()
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": asked.get("model")}
            chunk["choices"] = [{"index": 0, "delta": {"content": word}, "finish_reason": None}]
            _chunk(writer, f"data: {json.dumps(chunk)}\n\n".encode())
            await writer.drain()
        if (asked.get("stream_options") or {}).get("include_usage"):
            counts = {"prompt_tokens": len(words) + 1, "completion_tokens": len(words)}
            _chunk(writer, f"data: {json.dumps({'id': 'c', 'choices': [], 'usage': counts})}\n\n".encode())
        _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    def _completion(self, asked: dict[str, Any], text: str, path: str) -> dict[str, Any]:
        # Members and nulls that the gateway's contract does not know, as real engines send them.
        message = {"role": "assistant", "content": f"{self.name}: {text}"[:200], "tool_calls": None, "refusal": None}
        return {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": asked.get("model"),
            "system_fingerprint": None,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": None},
            "served_by": self.name,
            "path": path,
        }


@asynccontextmanager
async def running_engine(name: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Engine]:
    """An engine on a free port of the loopback."""
    engine = Engine(name)
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, limit=64 * 1024 * 1024, ssl=tls)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
        for writer in list(engine.connections):
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        return Seen(method, path, headers, await _read_chunks(reader))
    return Seen(method, path, headers, await reader.readexactly(int(headers.get("content-length", "0"))))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except ValueError:
        return {}
    return asked if isinstance(asked, dict) else {}


def _write(writer: asyncio.StreamWriter, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
