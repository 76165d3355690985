"""The waiting room: requests for a model that sleeps are held here until it is awake, or for so long.

Envoy sends such a request here because the room is the only endpoint of the model's cluster. When the model has an
instance the room answers with a header on which Envoy sends the request to the cluster once more, which by then leads
to the instance. The room reads nothing of a request but its end, and answers nothing in a model's place.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.edge.errors import openai_error
from gateway.models.sleep import AWAKE, NO_RETRY
from gateway.models.table import ModelRoute
from gateway.policies.table import PolicyRoute

log = logging.getLogger(__name__)
LONGEST_HEAD = 128 * 1024
CHUNK = 64 * 1024
# Whoever comes here for a model that is awake met an Envoy that has not heard of that yet.
SOON_S = 0.2
TRY_AGAIN_S = 10
UNKNOWN = "the model has gone while its request waited; see /v1/models"


@dataclass(slots=True)
class _Asleep:
    """A model that sleeps, as its requests need to know it."""

    model: str
    hold_s: float
    standing: str
    awake: asyncio.Event = field(default_factory=asyncio.Event)


class WaitingRoom:
    """Holds requests by the set that they wait for; `held` is told of each that comes and goes."""

    def __init__(self, held: Callable[[str, int], None]) -> None:
        self._held = held
        self._models: dict[str, _Asleep] = {}

    def follow(self, models: Iterable[ModelRoute], policies: Iterable[PolicyRoute]) -> None:
        """Takes a table, which Envoys are told of already: who waits for a model that is awake now may go on."""
        targets = (target.serving for policy in policies for target in policy.targets)
        routes = [route for route in (*models, *targets) if route is not None and route.sleep is not None]
        known, self._models = self._models, {}
        for route in routes:
            assert route.sleep is not None
            set_id = route.sleep.replica_set_id
            place = self._models.get(set_id) or known.get(set_id) or _Asleep(route.model, 0, "")
            place.hold_s, place.standing = route.sleep.hold_seconds, route.sleep.standing
            place.awake.clear() if route.asleep else place.awake.set()
            self._models[set_id] = place
        for set_id in known.keys() - self._models.keys():
            known[set_id].awake.set()

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[tuple[str, int]]:
        """Listens while the block lasts; yields where."""
        server = await asyncio.start_server(self._connection, host, port, limit=LONGEST_HEAD, backlog=4096)
        try:
            address, bound = server.sockets[0].getsockname()[:2]
            yield address, bound
        finally:
            server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (set_id := await _read_request(reader)) is not None:
                answer = await self._answer(set_id, reader)
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            return
        finally:
            writer.close()

    async def _answer(self, set_id: str, reader: asyncio.StreamReader) -> bytes | None:
        """The answer to a request that has been read; None when nobody waits for it any more."""
        place = self._models.get(set_id)
        if place is None:
            return _response(404, openai_error(UNKNOWN, "model_not_found", "model"))
        self._held(set_id, 1)
        try:
            if place.awake.is_set():
                return None if await _leaves(reader, asyncio.sleep(SOON_S)) else _sent_on()
            if await _leaves(reader, asyncio.wait_for(place.awake.wait(), place.hold_s)):
                return None
            return _sent_on()
        except TimeoutError:
            return _overdue(place)
        finally:
            self._held(set_id, -1)


async def _leaves(reader: asyncio.StreamReader, until: Awaitable[object]) -> bool:
    """Waits; whether the connection ended before. TimeoutError as the waiting raises it."""
    waiting = asyncio.ensure_future(until)
    leaving = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            return True
        await waiting
        return False
    finally:
        for task in (waiting, leaving):
            task.cancel()
        await asyncio.gather(waiting, leaving, return_exceptions=True)


async def _read_request(reader: asyncio.StreamReader) -> str | None:
    """Reads one request to its end; the host that it names, None when none comes any more."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.split("\r\n"))}
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            await _skip(reader, size + 2)
        await reader.readline()
    else:
        await _skip(reader, int(headers.get("content-length", "0")))
    return headers.get("host", "")


async def _skip(reader: asyncio.StreamReader, size: int) -> None:
    while size:
        content = await reader.read(min(size, CHUNK))
        if not content:
            raise ConnectionError("the request ended early")
        size -= len(content)


def _sent_on() -> bytes:
    body = openai_error("the model is awake; try again", "model_waking", "model", "server_error")
    return _response(503, body, f"{AWAKE}: true", f"retry-after: {TRY_AGAIN_S}")


def _overdue(place: _Asleep) -> bytes:
    why = f": {place.standing}" if place.standing else ""
    text = (
        f"model {place.model} was asleep and did not wake within {place.hold_s:g} s{why}; it goes on waking, try again"
    )
    body = openai_error(text, "model_waking", "model", "server_error")
    return _response(503, body, f"retry-after: {TRY_AGAIN_S}", f"{NO_RETRY}: true")


def _response(status: int, body: dict[str, object], *headers: str) -> bytes:
    content = json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} -", "content-type: application/json", f"content-length: {len(content)}", *headers]
    return "\r\n".join((*head, "", "")).encode() + content
