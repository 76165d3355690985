"""A clock that stands still until it is told to go on."""

from datetime import UTC, datetime, timedelta


class ManualClock:
    """Tells the time it was set to."""

    def __init__(self, now: datetime | None = None) -> None:
        self._now = now or datetime.now(UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, span: timedelta) -> None:
        """Lets time pass."""
        self._now += span
        self._monotonic += span.total_seconds()
