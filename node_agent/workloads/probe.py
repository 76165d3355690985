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
        status, answer = await ask(probe)
    except TimeoutError:
        return f"{asked} was not answered within {probe.timeout_s:g} s"
    except (OSError, ValueError) as error:
        return f"{asked} failed: {error}"
    said = " ".join(answer.split())[:_QUOTED]
    return "" if status == 200 else f"{asked} answered {status}" + (f": {said}" if said else "")


async def ask(probe: Probe) -> tuple[int, str]:
    """Status and body of the answer, which is cut when it is too long. Raises OSError, TimeoutError and ValueError."""
    async with asyncio.timeout(probe.timeout_s):
        head, _, body = (await _request(probe)).partition(b"\r\n\r\n")
    line = head.split(b"\r\n", 1)[0].split()
    return int(line[1]) if len(line) > 1 else 0, body.decode(errors="replace")


async def _request(probe: Probe) -> bytes:
    """The answer to its end: an engine must not see its first client run away."""
    url = urlsplit(probe.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write(_head(probe, url.netloc, url.path or "/") + probe.body)
        await writer.drain()
        answer = bytearray()
        while len(answer) < _LONGEST_ANSWER and (chunk := await reader.read(64 * 1024)):
            answer += chunk
        return bytes(answer)
    finally:
        writer.close()


def _head(probe: Probe, host: str, path: str) -> bytes:
    # Of version 1.0, so that no answer comes in chunks.
    lines = [f"{probe.method} {path} HTTP/1.0", f"host: {host}", "connection: close", "accept: application/json"]
    if probe.body:
        lines += ["content-type: application/json", f"content-length: {len(probe.body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
