"""The loop that takes silent nodes out of the fleet."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from controller.hints import Hints
from controller.nodes.liveness import Liveness
from mesh.clock import Clock

log = logging.getLogger(__name__)

LONGEST_PAUSE = timedelta(seconds=1)


def _never(_within: timedelta) -> bool:
    return False


class LeaseReaper:
    """Looks for leases that ran out, and believes them only after watching for a whole lease without a gap.

    A controller that just started, was stopped for a while, had no database, or has nodes waiting at its door could
    not hear heartbeats: its own absence is no outage of the nodes. Nor is it one when the database's clock, by which
    leases end, was set forward, or another database took over: then too nodes get a lease of time to be heard.
    """

    def __init__(
        self, liveness: Liveness, clock: Clock, hints: Hints, crowded: Callable[[timedelta], bool] = _never
    ) -> None:
        """`crowded` says whether nodes had to wait long for their sessions here within the last so long.

        Other controllers are told of it by `hints`, and hold back as well: a node may stand in a neighbour's queue.
        """
        self._hints, self._crowds = hints, hints.crowds
        self._liveness = liveness
        self._crowded = crowded
        self._clock = clock
        self._watching_since = self._watched_at = clock.monotonic()
        self._database_at: datetime | None = None

    async def step(self) -> timedelta:
        """Looks once; safe to repeat, to skip, and to run in several controllers."""
        lease = self._liveness.rules.lease
        now, database_now = self._clock.monotonic(), await self._liveness.now()
        unwatched = now - self._watched_at
        crowded = self._crowded(timedelta(seconds=unwatched))
        if crowded:
            self._hints.crowd()
        crowded, self._crowds = self._hints.crowds != self._crowds, self._hints.crowds
        if unwatched > lease.total_seconds() / 3 or crowded or self._jumped(database_now, now):
            self._watching_since = now
        sure = now - self._watching_since >= lease.total_seconds()
        # Judged by the time that was looked at: what the database's clock does after that look ends no lease.
        await self._liveness.lose_silent(database_now, sure=sure)
        self._watched_at, self._database_at = now, database_now
        return min(LONGEST_PAUSE, lease / 10)

    def _jumped(self, database_now: datetime, now: float) -> bool:
        """Whether the database's clock went on by much more than time did."""
        if self._database_at is None:
            return False
        ahead = (database_now - self._database_at).total_seconds() - (now - self._watched_at)
        if ahead <= self._liveness.rules.lease.total_seconds() / 3:
            return False
        log.warning("the database's clock went forward by %.1f s; nodes get a lease of time to be heard", ahead)
        return True
