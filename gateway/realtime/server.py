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

from gateway.realtime.connection import UNAUTHORIZED, Connection
from gateway.realtime.controllers import Controllers
from gateway.realtime.frames import BadFrameError, critical, error_frame, now_ms, read, text_of
from gateway.realtime.hub import Hub
from gateway.realtime.member import Member
from gateway.realtime.outgoing import MOST_BYTES
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
AGENT = "/ws/agent"
HEALTH = "/healthz"


@dataclass(frozen=True, slots=True)
class _Seat:
    connection: Connection
    token: str


class Sockets:
    """Every socket of this process."""

    def __init__(self, verifier: TokenVerifier, hub: Hub, controllers: Controllers, telemetry: Telemetry) -> None:
        self._verifier = verifier
        self._hub = hub
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
            token = await _token(socket)
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
                await self._talk(connection, claims, token)
            finally:
                self._seats.discard(seat)
                self._open.add(-1)
        await connection.ended()

    async def _talk(self, connection: Connection, claims: Claims, token: str) -> None:
        member = Member(claims, token, connection, self._hub, self._controllers)
        connection.send(
            critical(
                {
                    "type": "system.connectionEstablished",
                    "connectionId": new_id("socket"),
                    "userId": claims.user_id,
                    "timestamp": now_ms(),
                }
            )
        )
        try:
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
                    await member.take(frame)
        except ConnectionClosed:
            return
        finally:
            member.close()


async def _token(socket: ServerConnection) -> str:
    """The token in the header, or in the first frame. BadFrameError, TimeoutError."""
    assert socket.request is not None
    scheme, _, token = socket.request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    async with asyncio.timeout(FIRST_FRAME_WITHIN_S):
        frame = read(await socket.recv())
    if frame["type"] != "user.connect":
        raise BadFrameError("the first frame is user.connect with a `token`, unless the header has one")
    return text_of(frame, "token")


def _answer(socket: ServerConnection, request: Request) -> Response | None:
    """Answers what is no socket."""
    path = request.path.partition("?")[0]
    if path == HEALTH:
        return socket.respond(HTTPStatus.OK, "healthy\n")
    if path != AGENT:
        return socket.respond(HTTPStatus.NOT_FOUND, f"sockets are at {AGENT}\n")
    return None
