"""Rows that changed since an earlier look, by the transactions that wrote them: none is missed, and none is marked.

Every version of a row names the transaction that wrote it in its system column `xmin`. A transaction that was still
running at the earlier look is at least as new as the oldest one running then, so rows from that one on are looked at
again. Source: PostgreSQL documentation, "System Columns" and "Transaction ID and Snapshot Information Functions".
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, ColumnElement, Table, Text, cast, func, literal_column, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

# The column counts to 2³² and begins again; whoever looks across that must look at everything.
_WRAP = 2**32
# A look at everything from time to time costs little and mends whatever it is.
_WHOLE_AFTER = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The oldest transaction that was running at a time."""

    oldest: int
    at: datetime

    def continues(self, before: "Snapshot") -> bool:
        """Whether what changed between the two can be told.

        Not when the clock was set back, nor on a server that knows less than the one that was asked before.
        """
        same_count = self.oldest // _WRAP == before.oldest // _WRAP
        return same_count and self.oldest >= before.oldest and self.at >= before.at


class Bookmark:
    """How far a picture in memory has been read, and when it was last read whole."""

    def __init__(self) -> None:
        self._seen: Snapshot | None = None
        self._whole: Snapshot | None = None

    @property
    def begun(self) -> bool:
        """Whether anything was read."""
        return self._seen is not None

    def since(self, now: Snapshot) -> Snapshot | None:
        """From where to read on; None when everything is to be read."""
        before, whole = self._seen, self._whole
        if before is None or whole is None or not now.continues(before) or now.at - whole.at > _WHOLE_AFTER:
            return None
        return before

    def move(self, now: Snapshot, since: Snapshot | None) -> None:
        """What changed since then is in the picture; a reading that did not get here is done again."""
        if since is None:
            self._whole = now
        self._seen = now


async def take_snapshot(connection: AsyncConnection) -> Snapshot:
    """The present one; take it before the rows are read."""
    oldest: ColumnElement[str] = literal_column("pg_snapshot_xmin(pg_current_snapshot())")
    query = select(cast(cast(oldest, Text), BigInteger).label("oldest"), func.clock_timestamp().label("at"))
    row = (await connection.execute(query)).one()
    return Snapshot(row.oldest, row.at)


def changed_since(table: Table, since: Snapshot | None) -> ColumnElement[bool]:
    """Whether a row was written since then; every row without a snapshot."""
    if since is None:
        return true()
    written: ColumnElement[str] = literal_column(f"{table.name}.xmin")
    return cast(cast(written, Text), BigInteger) >= since.oldest % _WRAP
