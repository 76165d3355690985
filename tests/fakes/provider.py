"""A provider outside that answers what the test tells it to, in OpenAI's words or in Anthropic's."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.engine_http import Engine, Seen


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: a document, or the data of a stream's events. A stream that is `cut` ends without its last chunk."""

    document: Any = None
    events: Sequence[Any] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    # Waits for the provider's release before it answers.
    held: bool = False


@dataclass(slots=True)
class Provider(Engine):
    """Gives the replies in turn; the last one again and again."""

    replies: deque[Reply] = field(default_factory=deque)

    def script(self, *replies: Reply) -> None:
        """What it answers from now on."""
        self.seen.clear()
        self.replies = deque(replies)

    def asked(self) -> Any:
        """The body of the last request."""
        return json.loads(self.seen[-1].body)

    async def _answer(self, request: Seen, writer: asyncio.StreamWriter) -> None:
        reply = self.replies.popleft() if len(self.replies) > 1 else self.replies[0]
        if reply.held:
            await self.release.wait()
        kind = "text/event-stream" if reply.events else "application/json"
        body = b"".join(map(event, reply.events)) if reply.events else json.dumps(reply.document).encode()
        headers = {"content-type": kind, "transfer-encoding": "chunked", **reply.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {reply.status} X\r\n{head}\r\n".encode())
        # In pieces that end anywhere.
        for start in range(0, len(body), 37 if reply.events else 65536):
            piece = body[start : start + (37 if reply.events else 65536)]
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
        if reply.cut:
            writer.transport.abort()
        writer.write(b"0\r\n\r\n")


@asynccontextmanager
async def running_provider(name: str = "provider") -> AsyncIterator[Provider]:
    """A provider on a free port of the loopback."""
    provider = Provider(name)
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0, limit=64 * 1024 * 1024)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        provider.release.set()
        server.close()
        for writer in list(provider.connections):
            writer.close()


def event(data: Any) -> bytes:
    """A server-sent event, with the name that Anthropic's events have."""
    if isinstance(data, str):
        return f"data: {data}\n\n".encode()
    name = f"event: {data['type']}\n" if isinstance(data.get("type"), str) else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode()


def chat(content: str | None = "hello", *, calls: Sequence[Any] = (), finish: str = "stop", cached: int = 0) -> Any:
    """OpenAI's answer to a chat."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = list(calls)
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "far",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": 11,
            "completion_tokens": 7,
            "total_tokens": 18,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }


def call(name: str, arguments: Any, number: int = 0) -> Any:
    """A call of a tool in OpenAI's answer."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"call_{number}", "type": "function", "function": function}


def chunks(*deltas: Any, finish: str = "stop") -> list[Any]:
    """OpenAI's stream, with its usage at the end."""
    opening = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "far"}
    told = [{**opening, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    told.append({**opening, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    told.append({**opening, "choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}})
    return [*told, "[DONE]"]


def message(*blocks: Any, stop: str = "end_turn") -> Any:
    """Anthropic's message."""
    usage = {"input_tokens": 8, "cache_read_input_tokens": 3, "output_tokens": 7}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "far",
        "content": list(blocks) or [{"type": "text", "text": "hello"}],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage,
    }


def message_events(*blocks: Any, stop: str = "end_turn") -> list[Any]:
    """Anthropic's stream of a message, whose texts and inputs come in two parts."""
    usage = {"input_tokens": 8, "cache_read_input_tokens": 3, "output_tokens": 1}
    told: list[Any] = [{"type": "message_start", "message": {**message(), "content": [], "usage": usage}}]
    told.append({"type": "ping"})
    for index, block in enumerate(blocks):
        is_text = block["type"] == "text"
        empty = {**block, "text": ""} if is_text else {**block, "input": {}}
        told.append({"type": "content_block_start", "index": index, "content_block": empty})
        text = block["text"] if is_text else json.dumps(block["input"])
        kind, name = ("text_delta", "text") if is_text else ("input_json_delta", "partial_json")
        for part in (text[: len(text) // 2], text[len(text) // 2 :]):
            told.append({"type": "content_block_delta", "index": index, "delta": {"type": kind, name: part}})
        told.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": stop, "stop_sequence": None}
    told.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7}})
    return [*told, {"type": "message_stop"}]
