"""Who may open a session now: few at a time, in the order in which they came, so that a storm gets through."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from mesh.clock import Clock

# However many agents come at once, they take turns on few connections; the rest of the pool is for everyone else.
OPENING_AT_ONCE = 4
# Whoever waited longer than this was one of many.
_LONG = timedelta(seconds=1)


class Admission:
    """Turns at opening a session. Who waits keeps their place, and their connection, for a handshake costs more."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._turns = asyncio.Semaphore(OPENING_AT_ONCE)
        # When each came who waits, the longest first.
        self._waiting: dict[object, float] = {}
        self._crowded_at: float | None = None

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for the turn, and holds it while the block lasts."""
        place = object()
        self._waiting[place] = self._clock.monotonic()
        try:
            await self._turns.acquire()
        finally:
            self._note()
            del self._waiting[place]
        try:
            yield
        finally:
            self._turns.release()

    def crowded(self, within: timedelta) -> bool:
        """Whether nodes had to wait long lately: that the others were not heard may then be our own fault."""
        self._note()
        at = self._crowded_at
        return at is not None and self._clock.monotonic() - at < within.total_seconds()

    def _note(self) -> None:
        now = self._clock.monotonic()
        if self._waiting and now - next(iter(self._waiting.values())) > _LONG.total_seconds():
            self._crowded_at = now
