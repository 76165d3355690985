"""Asks an engine over HTTP whether it is up; as small as such a request can be."""

import asyncio
from datetime import timedelta
from urllib.parse import urlsplit

from node_agent.engines.engine import Probe

_LONGEST_ANSWER = 1024 * 1024


async def until_answered(probe: Probe, pause: timedelta) -> None:
    """Asks until the engine answers with status 200."""
    while True:
        if await answers(probe):
            return
        await asyncio.sleep(pause.total_seconds())


async def answers(probe: Probe) -> bool:
    """Whether the engine answers with status 200 within the probe's time."""
    try:
        async with asyncio.timeout(probe.timeout_s):
            return await _request(probe) == 200
    except (OSError, TimeoutError, ValueError):
        return False


async def _request(probe: Probe) -> int:
    """The status of the answer, after its end: an engine must not see its first client run away."""
    url = urlsplit(probe.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write(_head(probe, url.netloc, url.path or "/") + probe.body)
        await writer.drain()
        line = (await reader.readline()).split()
        remaining = _LONGEST_ANSWER
        while remaining > 0 and (chunk := await reader.read(64 * 1024)):
            remaining -= len(chunk)
        return int(line[1]) if len(line) > 1 else 0
    finally:
        writer.close()


def _head(probe: Probe, host: str, path: str) -> bytes:
    lines = [f"{probe.method} {path} HTTP/1.1", f"host: {host}", "connection: close", "accept: application/json"]
    if probe.body:
        lines += ["content-type: application/json", f"content-length: {len(probe.body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
