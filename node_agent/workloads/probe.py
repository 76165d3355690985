"""Asks an engine over HTTP whether it is up; as small as such a request can be."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlsplit

from node_agent.engines.engine import Probe

_LONGEST_ANSWER = 1024 * 1024
_QUOTED = 200


async def until_answered(probe: Probe, pause: timedelta, tell: Callable[[str], None]) -> None:
    """Asks until the engine answers with status 200, telling each time what kept it from that."""
    while missing := await missing_of(probe):
        tell(missing)
        await asyncio.sleep(pause.total_seconds())


async def missing_of(probe: Probe) -> str:
    """What keeps the engine from answering with status 200 within the probe's time; empty when it does."""
    asked = f"{probe.method} {urlsplit(probe.url).path or '/'}"
    try:
        async with asyncio.timeout(probe.timeout_s):
            status, answer = await _request(probe)
    except TimeoutError:
        return f"{asked} was not answered within {probe.timeout_s:g} s"
    except (OSError, ValueError) as error:
        return f"{asked} failed: {error}"
    said = " ".join(answer.decode(errors="replace").split())[:_QUOTED]
    return "" if status == 200 else f"{asked} answered {status}" + (f": {said}" if said else "")


async def _request(probe: Probe) -> tuple[int, bytes]:
    """Status and last part of the answer, after its end: an engine must not see its first client run away."""
    url = urlsplit(probe.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write(_head(probe, url.netloc, url.path or "/") + probe.body)
        await writer.drain()
        line = (await reader.readline()).split()
        remaining, answer = _LONGEST_ANSWER, b""
        while remaining > 0 and (chunk := await reader.read(64 * 1024)):
            remaining, answer = remaining - len(chunk), chunk
        return int(line[1]) if len(line) > 1 else 0, answer.rpartition(b"\r\n\r\n")[2]
    finally:
        writer.close()


def _head(probe: Probe, host: str, path: str) -> bytes:
    lines = [f"{probe.method} {path} HTTP/1.1", f"host: {host}", "connection: close", "accept: application/json"]
    if probe.body:
        lines += ["content-type: application/json", f"content-length: {len(probe.body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
