"""An engine that answers every request the same at once: `python -m benchmarks.upstream PORT`.

It must cost little beside what is measured, so it speaks just enough HTTP/1.1: a request is its head and as many
bytes as Content-Length says. A request that asks for a stream within its body's first 512 bytes gets one, each chunk
with the time it was sent at.
"""

import asyncio
import json
import re
import sys
import time
from typing import cast

import uvloop

MODEL = "tiny"
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"},
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [{"type": "text", "text": "Hello."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


def _response(answer: object) -> bytes:
    body = json.dumps(answer).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


RESPONSE, MESSAGE_RESPONSE = _response(ANSWER), _response(MESSAGE)
STREAMED, LOOKED_AT = re.compile(rb'"stream": *true'), 512
CHUNKS, CHUNK_EVERY_S = 200, 0.004
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Constant(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._end_of_request()) is not None:
            body = self._received.index(b"\r\n\r\n") + 4
            streamed = STREAMED.search(self._received, body, min(end, body + LOOKED_AT))
            asked_in_messages = self._received.startswith(b"POST /v1/messages")
            self._received = self._received[end:]
            if asked_in_messages:
                self._transport.write(MESSAGE_RESPONSE)
            elif streamed:
                self._transport.write(STREAM_HEAD)
                self._stream(CHUNKS)
            else:
                self._transport.write(RESPONSE)

    def _stream(self, left: int) -> None:
        if self._transport.is_closing():
            return
        if left == 0:
            self._transport.write(_chunk(_END) + b"0\r\n\r\n")
            return
        self._transport.write(_chunk(_EVENT % time.monotonic_ns()))
        asyncio.get_running_loop().call_later(CHUNK_EVERY_S, self._stream, left - 1)

    def _end_of_request(self) -> int | None:
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return None
        length = _LENGTH.search(self._received, 0, head)
        end = head + 4 + (int(length[1]) if length else 0)
        return end if len(self._received) >= end else None


_EVENT = (
    b'data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", '
    b'"choices": [{"index": 0, "delta": {"content": "sent_ns %d"}, "finish_reason": null}]}\n\n'
)
_END = (
    b'data: {"id": "chatcmpl-1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 200}}\n\n'
    b"data: [DONE]\n\n"
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def main(port: int) -> None:
    """Serves on loopback until killed."""
    server = await asyncio.get_running_loop().create_server(Constant, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
