"""How late the parts of a stream are: `python -m benchmarks.streams` reads what to ask for on its input.

The upstream writes the time into each chunk, and both read the same clock of the machine.
"""

import gc
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping

from benchmarks.open_loop import address_of, http_request
from benchmarks.upstream import CHUNKS

_STAMP = re.compile(rb'sent_ns (\d+)"')


def delays_ms(url: str, *, streams: int, headers: Mapping[str, str], body: Mapping[str, object]) -> list[float]:
    """The delay of each chunk of so many streams, one stream after the other, from a process of its own."""
    asked = {"url": url, "streams": streams, "headers": dict(headers), "body": {**body, "stream": True}}
    command = [sys.executable, "-m", "benchmarks.streams"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)
    delays: list[float] = json.loads(done.stdout)
    if len(delays) != streams * CHUNKS:
        raise RuntimeError(f"{len(delays)} chunks of {streams} streams came from {url}, not {streams * CHUNKS}")
    return delays


def one_stream(connection: socket.socket, request: bytes) -> list[float]:
    """The delay of each chunk, in milliseconds."""
    connection.sendall(request)
    delays, rest = list[float](), b""
    while b"data: [DONE]" not in rest or not rest.endswith(b"0\r\n\r\n"):
        read = connection.recv(65536)
        now = time.monotonic_ns()
        if not read:
            raise ConnectionError("the stream ended before it was done")
        rest += read
        last = 0
        for stamp in _STAMP.finditer(rest):
            delays.append((now - int(stamp[1])) / 1e6)
            last = stamp.end()
        rest = rest[last:]
    return delays


def main() -> None:
    """Reads what to ask for, asks, and prints the delays."""
    asked = json.load(sys.stdin)
    request = http_request(asked["url"], asked["headers"], asked["body"])
    gc.disable()
    connection = socket.create_connection(address_of(asked["url"]))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(json.dumps([delay for _ in range(asked["streams"]) for delay in one_stream(connection, request)]))


if __name__ == "__main__":
    main()
