"""Windows of time that begin anew with the clock, in UTC."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class Period(Enum):
    """How long a window is."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    # The one window that never ends.
    TOTAL = "total"

    def window(self, at: datetime) -> "Window":
        """The window that a moment belongs to."""
        at = at.astimezone(UTC)
        match self:
            case Period.MINUTE:
                since = at.replace(second=0, microsecond=0)
                return Window(since, since + timedelta(minutes=1))
            case Period.HOUR:
                since = at.replace(minute=0, second=0, microsecond=0)
                return Window(since, since + timedelta(hours=1))
            case Period.DAY:
                since = at.replace(hour=0, minute=0, second=0, microsecond=0)
                return Window(since, since + timedelta(days=1))
            case Period.MONTH:
                since = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
                return Window(since, (since + timedelta(days=32)).replace(day=1))
            case Period.TOTAL:
                return Window(_BEGINNING, None)


@dataclass(frozen=True, slots=True)
class Window:
    """From when on, and until when; None is no end."""

    since: datetime
    until: datetime | None
