"""Load at a fixed rate, whatever the answers do: `python -m benchmarks.open_loop` reads what to send on its input.

A request that could not be sent in time, because the ones before it were late, is late itself: its latency counts from
when it was due (coordinated omission, Tene 2013). One thread with select(2), whose timeouts are in microseconds.
"""

import ctypes
import gc
import json
import re
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

CONNECTIONS = 64
# prctl(2): how much later than asked the kernel may wake this thread, in nanoseconds.
PR_SET_TIMERSLACK = 29
# So long after the last request was due the last answer must be here.
PATIENCE_NS = 30_000_000_000
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Offered:
    """What an offered load saw. Latencies from when a request was due, in milliseconds."""

    requests: int
    failed: int
    p50_ms: float
    p99_ms: float


def offer(
    url: str, *, rate: int, seconds: float, headers: Mapping[str, str], body: Mapping[str, object] | None
) -> Offered:
    """Offers `rate` requests a second from a process of its own. Raises when answers fail."""
    asked = {"url": url, "rate": rate, "seconds": seconds, "headers": dict(headers), "body": body}
    command = [sys.executable, "-m", "benchmarks.open_loop"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)
    offered = Offered(**json.loads(done.stdout))
    if offered.failed:
        raise RuntimeError(f"{offered.failed} of {offered.requests} requests to {url} failed")
    return offered


class Connection:
    """One connection, and the answer that it waits for."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0
        self._received = b""

    def fileno(self) -> int:
        """For select."""
        return self.socket.fileno()

    def send(self, request: bytes, due: int) -> None:
        """Sends a request that was due at this time."""
        self.due, self._received = due, b""
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """Takes what is there; the answer's first line once it is whole. Raises ConnectionError."""
        read = self.socket.recv(65536)
        if not read:
            raise ConnectionError
        self._received += read
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return None
        length = _LENGTH.search(self._received, 0, head)
        whole = len(self._received) >= head + 4 + int(length[1]) if length else self._received.endswith(b"0\r\n\r\n")
        return self._received[: self._received.index(b"\r\n")] if whole else None


def run(address: tuple[str, int], request: bytes, rate: int, seconds: float) -> Offered:
    """Sends as many as were due in so many seconds and waits for their answers."""
    interval, total = 1_000_000_000 // rate, int(rate * seconds)
    idle, busy = [Connection(address) for _ in range(CONNECTIONS)], set[Connection]()
    latencies, failed, sent, waiting = list[int](), 0, 0, deque[int]()
    start = time.perf_counter_ns()
    while len(latencies) + failed < total:
        now = time.perf_counter_ns()
        if now > start + total * interval + PATIENCE_NS:
            failed = total - len(latencies)
            break
        while sent < total and start + sent * interval <= now:
            waiting.append(start + sent * interval)
            sent += 1
        while waiting and idle:
            connection = idle.pop()
            connection.send(request, waiting.popleft())
            busy.add(connection)
        pause = (start + sent * interval - time.perf_counter_ns()) / 1e9 if sent < total else 1.0
        for connection in select.select(list(busy), [], [], max(pause, 0))[0]:
            try:
                status = connection.receive()
            except ConnectionError:
                status = b""
            if status is None:
                continue
            busy.discard(connection)
            if status.startswith(b"HTTP/1.1 200"):
                latencies.append(time.perf_counter_ns() - connection.due)
                idle.append(connection)
            else:
                failed += 1
                idle.append(Connection(address))
    latencies.sort()
    return Offered(total, failed, quantile(latencies, 0.5) / 1e6, quantile(latencies, 0.99) / 1e6)


def quantile(ordered: list[int], share: float) -> int:
    """The value that this share of the ordered values is at most; 0 of none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0


def http_request(url: str, headers: Mapping[str, str], body: Mapping[str, object] | None) -> bytes:
    """A POST over HTTP/1.1."""
    parts, content = urlsplit(url), json.dumps(body).encode() if body is not None else b""
    fields = {"host": parts.netloc, "content-type": "application/json", **headers, "content-length": str(len(content))}
    head = f"POST {parts.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return head.encode() + b"\r\n" + content


def address_of(url: str) -> tuple[str, int]:
    """Where an address leads."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


def main() -> None:
    """Reads what to send, sends it, and prints what was seen."""
    asked = json.load(sys.stdin)
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    request = http_request(asked["url"], asked["headers"], asked["body"])
    gc.disable()
    print(json.dumps(asdict(run(address_of(asked["url"]), request, asked["rate"], asked["seconds"]))))


if __name__ == "__main__":
    main()
