"""One socket: frames out as fast as its reader takes them, and an end with a reason when that is too slow."""

import asyncio
from contextlib import suppress

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.exceptions import ConnectionClosed

from gateway.realtime.outgoing import Frame, Outgoing

UNREADABLE, UNAUTHORIZED, TOO_SLOW = 1007, 3000, 3008
# What the operating system has not taken yet; beyond this, frames wait where they may give way.
UNSENT_BYTES = 64 * 1024
CLOSE_TIMEOUT_S = 5.0


class Connection:
    """Sends at once what the reader can take, and keeps the rest in order."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self._outgoing = Outgoing()
        self._writer: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        # The code that it was ended with from here.
        self.ending: int | None = None

    def send(self, frame: Frame) -> None:
        """Takes a frame, and ends a socket that has no room for it."""
        if self._closing is not None:
            return
        if self._writer is None and self._unsent() < UNSENT_BYTES:
            broadcast([self.socket], frame.text, text=True)
            return
        if not self._outgoing.put(frame):
            self.end(TOO_SLOW, "the reader is too slow; connect again and resume")
        elif self._writer is None:
            self._writer = asyncio.ensure_future(self._write())

    def end(self, code: int, reason: str) -> None:
        """Ends the socket, whatever still waits."""
        if self._closing is None:
            self.ending = code
            self._closing = asyncio.ensure_future(self._close(code, reason))

    async def ended(self) -> None:
        """Puts away what the socket needed."""
        tasks = [each for each in (self._writer, self._closing) if each is not None]
        if self._writer is not None:
            self._writer.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _unsent(self) -> int:
        return self.socket.transport.get_write_buffer_size()

    async def _write(self) -> None:
        with suppress(ConnectionClosed):
            while (frame := self._outgoing.take()) is not None:
                await self.socket.send(frame.text, text=True)
        self._writer = None

    async def _close(self, code: int, reason: str) -> None:
        if self._writer is not None:
            self._writer.cancel()
        with suppress(TimeoutError, ConnectionClosed):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.socket.close(code, reason)
                return
        # A reader that does not even take the end's reason.
        self.socket.transport.abort()
