"""The outbox: events are rows, committed with the change they tell of, and published afterwards."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import timedelta

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Identity,
    Index,
    Integer,
    Interval,
    RowMapping,
    Table,
    Text,
    and_,
    any_,
    bindparam,
    delete,
    func,
    insert,
    literal,
    null,
    select,
    text,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.errors import DomainError, Kind
from mesh.events.cloudevents import Envelope
from mesh.sql.presence import is_present
from mesh.sql.tables import metadata, moment

__all__ = ["Backlog", "Claimed", "Envelope", "EventTooLargeError", "Outbox", "append", "outbox"]

LARGEST_EVENT_BYTES = 512 * 1024
# Relays claim one at a time, so that two never hold rows of one key; they publish side by side.
CLAIM_LOCK = 0x6F7574626F78
IDLE_LIMIT_MS = 5_000

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("event_id", Text, nullable=False, unique=True),
    Column("topic", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("subject", Text, nullable=False),
    moment("time"),
    Column("value", Text, nullable=False),
    Column("traceparent", Text, nullable=False, server_default=""),
    Column("organization", Text, nullable=False, server_default=""),
    Column("created_at", moment("created_at").type, nullable=False, server_default=func.now()),
    moment("published_at", nullable=True),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("last_error", Text, nullable=True),
    Column("claimed_by", Text, nullable=True),
    moment("claimed_until", nullable=True),
)
Index("ix_outbox_unpublished", outbox.c.id, postgresql_where=outbox.c.published_at.is_(None))
Index("ix_outbox_published_at", outbox.c.published_at, postgresql_where=outbox.c.published_at.is_not(None))

# Two transactions that tell of one entity number their events in the order in which they commit.
_LOCK_KEYS = text(
    "SELECT pg_advisory_xact_lock(each) FROM"
    " (SELECT DISTINCT hashtextextended(name, 0) AS each FROM unnest(:names) AS name ORDER BY 1) AS keys"
).bindparams(bindparam("names", type_=ARRAY(Text)))
_TRY_CLAIM_LOCK = text(
    "SELECT set_config('idle_in_transaction_session_timeout', :limit, true), pg_try_advisory_xact_lock(:lock)"
)


_ENVELOPE_FIELDS = [each.name for each in fields(Envelope)]


class EventTooLargeError(DomainError):
    """An event is larger than brokers take, and would block those behind it."""

    kind, reason = Kind.INTERNAL, "INTERNAL"


class Claimed:
    """Rows that one relay may publish until its lease ends, in the order of their keys' events."""

    __slots__ = ("envelopes", "full", "ids")

    def __init__(self, rows: Sequence[tuple[int, Envelope]], *, full: bool) -> None:
        self.ids = {envelope.event_id: number for number, envelope in rows}
        self.envelopes = [envelope for _, envelope in rows]
        self.full = full


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits to be published, and for how long."""

    count: int
    age: timedelta


async def append(connection: AsyncConnection, *envelopes: Envelope) -> None:
    """Writes events in the caller's transaction; they are published if and only if it commits."""
    for envelope in envelopes:
        if len(envelope.value.encode()) > LARGEST_EVENT_BYTES:
            raise EventTooLargeError(
                f"event {envelope.type} of {envelope.key} is larger than {LARGEST_EVENT_BYTES} bytes"
            )
    if envelopes:
        await connection.execute(_LOCK_KEYS, {"names": [f"{each.topic} {each.key}" for each in envelopes]})
        await connection.execute(insert(outbox), [asdict(each) for each in envelopes])


class Outbox:
    """The relay's side of the table: short statements; publishing happens between them, in no transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def claim(self, relay: str, lease: timedelta, limit: int) -> Claimed:
        """Takes the oldest events whose keys no other relay holds; nothing when another relay is claiming right now.

        What a relay claimed that is not there any more is free. What it holds itself it takes again: that it asks says
        that it could not settle what it had.
        """
        found = await self._connection.execute(_TRY_CLAIM_LOCK, {"limit": str(IDLE_LIMIT_MS), "lock": CLAIM_LOCK})
        if not found.one()[1]:
            return Claimed((), full=False)
        waiting = outbox.c.published_at.is_(None)
        others = and_(
            waiting, outbox.c.claimed_until > func.now(), outbox.c.claimed_by != relay, is_present(outbox.c.claimed_by)
        )
        held = select(outbox.c.topic, outbox.c.key).where(others)
        free = and_(waiting, tuple_(outbox.c.topic, outbox.c.key).not_in(held))
        oldest = select(outbox.c.id).where(free).order_by(outbox.c.id).limit(limit)
        claim = (
            update(outbox)
            .where(and_(outbox.c.id.in_(oldest), waiting))
            .values(claimed_by=relay, claimed_until=func.now() + lease)
            .returning(outbox)
        )
        rows = sorted((await self._connection.execute(claim)).mappings(), key=lambda row: int(row["id"]))
        return Claimed([(row["id"], _envelope(row)) for row in rows], full=len(rows) == limit)

    async def mark_published(self, ids: Iterable[int]) -> None:
        """These events are on the broker."""
        await self._connection.execute(
            update(outbox)
            .where(_among(ids))
            .values(published_at=func.now(), claimed_by=null(), claimed_until=null(), last_error=null())
        )

    async def release_failed(self, ids: Iterable[int], error: str) -> None:
        """These events could not be published; any relay may try again."""
        await self._connection.execute(
            update(outbox)
            .where(and_(_among(ids), outbox.c.published_at.is_(None)))
            .values(attempts=outbox.c.attempts + 1, last_error=error, claimed_by=null(), claimed_until=null())
        )

    async def release(self, relay: str) -> None:
        """Gives back what a relay holds, at its end."""
        await self._connection.execute(
            update(outbox).where(outbox.c.claimed_by == relay).values(claimed_by=null(), claimed_until=null())
        )

    async def backlog(self) -> Backlog:
        """What waits."""
        age = type_coerce(func.coalesce(func.now() - func.min(outbox.c.created_at), timedelta()), Interval)
        waiting = select(func.count(), age).where(outbox.c.published_at.is_(None))
        row = (await self._connection.execute(waiting)).one()
        return Backlog(row[0], row[1])

    async def purge(self, retention: timedelta, limit: int) -> int:
        """Deletes some events that were published longer ago than the retention; answers how many."""
        old = select(outbox.c.id).where(outbox.c.published_at < func.now() - retention).limit(limit)
        return (await self._connection.execute(delete(outbox).where(outbox.c.id.in_(old)))).rowcount


def _among(ids: Iterable[int]) -> ColumnElement[bool]:
    return outbox.c.id == any_(literal(list(ids), ARRAY(BigInteger)))


def _envelope(row: RowMapping) -> Envelope:
    return Envelope(**{name: row[name] for name in _ENVELOPE_FIELDS})
