"""Sockets from their first byte to their last: who is there, what they send, how they end."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from gateway.realtime.connection import UNAUTHORIZED, UNREADABLE, Connection
from gateway.realtime.controllers import Controllers
from gateway.realtime.frames import BadFrameError, Json, critical, error_frame, now_ms, read, text_of
from gateway.realtime.hub import Hub
from gateway.realtime.member import Member
from gateway.realtime.outgoing import MOST_BYTES
from gateway.realtime.tail import Tail
from gateway.realtime.watcher import Watcher
from mesh.errors import UnauthenticatedError
from mesh.identity import new_id
from mesh.telemetry import Telemetry
from mesh.tokens import Claims, TokenRevokedError, TokenVerifier

log = logging.getLogger(__name__)
LARGEST_FRAME = 64 * 1024
PING_EVERY_S, PONG_WITHIN_S = 25, 20
FIRST_FRAME_WITHIN_S = 10.0
# How long a socket may outlive its token.
RECHECK = timedelta(seconds=1)
AGENT, SYSTEM = "/ws/agent", "/ws/system"
HEALTH = "/healthz"


@dataclass(frozen=True, slots=True)
class _Seat:
    connection: Connection
    token: str


class Sockets:
    """Every socket of this process."""

    def __init__(
        self, verifier: TokenVerifier, hub: Hub, tail: Tail, controllers: Controllers, telemetry: Telemetry
    ) -> None:
        self._verifier = verifier
        self._hub = hub
        self._tail = tail
        self._controllers = controllers
        self._seats: set[_Seat] = set()
        self._open = telemetry.meter.create_up_down_counter("realtime.sockets", description="Sockets that are open.")

    @asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[int]:
        """Takes sockets until the block ends; yields the port."""
        async with serve(
            self._serve,
            host,
            port,
            process_request=_answer,
            compression=None,
            max_size=LARGEST_FRAME,
            max_queue=4,
            write_limit=MOST_BYTES // 16,
            ping_interval=PING_EVERY_S,
            ping_timeout=PONG_WITHIN_S,
            server_header=None,
        ) as server:
            yield next(iter(server.sockets)).getsockname()[1]

    async def recheck(self) -> None:
        """Ends sockets whose token is refused by now."""
        for seat in tuple(self._seats):
            try:
                self._verifier.verify(seat.token)
            except (UnauthenticatedError, TokenRevokedError) as error:
                seat.connection.end(UNAUTHORIZED, error.message)

    async def _serve(self, socket: ServerConnection) -> None:
        connection = Connection(socket)
        try:
            token, first = await _first(socket)
            claims = self._verifier.verify(token)
        except (BadFrameError, UnauthenticatedError, TokenRevokedError, TimeoutError) as error:
            connection.end(UNAUTHORIZED, str(error) or "no token came in time")
        except ConnectionClosed:
            pass
        else:
            seat = _Seat(connection, token)
            self._seats.add(seat)
            self._open.add(1)
            try:
                await self._talk(connection, claims, token, first)
            finally:
                self._seats.discard(seat)
                self._open.add(-1)
        await connection.ended()

    async def _talk(self, connection: Connection, claims: Claims, token: str, first: Json) -> None:
        guest = self._guest(connection, claims, token)
        welcome = {"type": "system.connectionEstablished", "connectionId": new_id("socket"), "userId": claims.user_id}
        where = {"positions": self._tail.positions()} if isinstance(guest, Watcher) else {}
        connection.send(critical({**welcome, **where, "timestamp": now_ms()}))
        try:
            if isinstance(guest, Watcher):
                guest.open(first.get("positions"))
            await _listen(connection, guest)
        except BadFrameError as error:
            connection.end(UNREADABLE, str(error))
        except ConnectionClosed:
            return
        finally:
            guest.close()

    def _guest(self, connection: Connection, claims: Claims, token: str) -> Member | Watcher:
        if _path(connection.socket) == SYSTEM:
            return Watcher(claims, connection, self._tail)
        return Member(claims, token, connection, self._hub, self._controllers)


async def _listen(connection: Connection, guest: Member | Watcher) -> None:
    """Takes frames until the user leaves."""
    async for text in connection.socket:
        try:
            frame = read(text)
        except BadFrameError as error:
            connection.send(error_frame("INVALID_REQUEST", str(error)))
            continue
        if frame["type"] == "user.disconnect":
            await connection.socket.close()
            return
        if frame["type"] != "user.connect":
            await guest.take(frame)


def _path(socket: ServerConnection) -> str:
    assert socket.request is not None
    return socket.request.path.partition("?")[0]


async def _first(socket: ServerConnection) -> tuple[str, Json]:
    """The token, in the header or in the first frame, and that frame. BadFrameError, TimeoutError."""
    assert socket.request is not None
    scheme, _, token = socket.request.headers.get("authorization", "").partition(" ")
    in_header = token.strip() if scheme.lower() == "bearer" else ""
    if in_header and _path(socket) == AGENT:
        return in_header, {}
    async with asyncio.timeout(FIRST_FRAME_WITHIN_S):
        frame = read(await socket.recv())
    if frame["type"] != "user.connect":
        raise BadFrameError("the first frame is user.connect, with a `token` unless the header has one")
    return in_header or text_of(frame, "token"), frame


def _answer(socket: ServerConnection, request: Request) -> Response | None:
    """Answers what is no socket."""
    path = request.path.partition("?")[0]
    if path == HEALTH:
        return socket.respond(HTTPStatus.OK, "healthy\n")
    if path not in (AGENT, SYSTEM):
        return socket.respond(HTTPStatus.NOT_FOUND, f"sockets are at {AGENT} and {SYSTEM}\n")
    return None
