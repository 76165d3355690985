"""Asks the node's Envoy how it is, over its socket in the tunnel's directory."""

import asyncio
import contextlib
import json
import os
from pathlib import Path

from node_agent.tunnel.config import ADMIN, STATISTICS

_TIMEOUT_S = 2.0
_CONNECTIONS = f"http.{STATISTICS}.downstream_cx_active"


async def version(directory: Path) -> str:
    """Envoy's version, e.g. "1.40.0"; empty when it does not answer."""
    answer = await get(directory, "/server_info")
    with contextlib.suppress(ValueError, KeyError, IndexError):
        return str(json.loads(answer)["version"].split("/")[1])
    return ""


async def connections(directory: Path) -> int | None:
    """How many connections to the gateway are open; None when Envoy does not answer."""
    answer = await get(directory, f"/stats?filter=^{_CONNECTIONS}$&usedonly")
    if not answer:
        return None
    value = answer.rpartition(":")[2].strip()
    return int(value) if value.isdigit() else 0


async def get(directory: Path, path: str) -> str:
    """A page's body, empty when there is no answer in time."""
    # The socket is reached through an open directory: its own path may be longer than a socket's address can be.
    try:
        opened = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return ""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{opened}/{ADMIN}")
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
                answer = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return ""
    finally:
        os.close(opened)
    return _body(answer)


def _body(answer: bytes) -> str:
    """The body of an HTTP/1.1 answer, whole or in chunks."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return rest.decode()
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size or b"0", 16)
        body, rest = body + rest[:length], rest[length + 2 :]
        if not length:
            break
    return body.decode()
