"""The loop that takes silent nodes out of the fleet."""

from collections.abc import Callable
from datetime import timedelta

from controller.nodes.liveness import Liveness
from mesh.clock import Clock

LONGEST_PAUSE = timedelta(seconds=1)


def _never(_within: timedelta) -> bool:
    return False


class LeaseReaper:
    """Looks for leases that ran out, and believes them only after watching for a whole lease without a gap.

    A controller that just started, was stopped for a while, had no database, or has nodes waiting at its door could
    not hear heartbeats: its own absence is no outage of the nodes.
    """

    def __init__(self, liveness: Liveness, clock: Clock, crowded: Callable[[timedelta], bool] = _never) -> None:
        """`crowded` says whether nodes had to wait long for their sessions within the last so long."""
        self._liveness = liveness
        self._crowded = crowded
        self._clock = clock
        self._watching_since = self._watched_at = clock.monotonic()

    async def step(self) -> timedelta:
        """Looks once; safe to repeat, to skip, and to run in several controllers."""
        lease = self._liveness.rules.lease
        now = self._clock.monotonic()
        if now - self._watched_at > lease.total_seconds() / 3 or self._crowded(lease):
            self._watching_since = now
        await self._liveness.lose_silent(sure=now - self._watching_since >= lease.total_seconds())
        self._watched_at = now
        return min(LONGEST_PAUSE, lease / 10)
