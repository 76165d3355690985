"""Batches and their lines in PostgreSQL, and who works at them: a lease with a token that every worker has to name."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    Table,
    Text,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.batches.model import (
    UNFINISHED,
    Batch,
    BatchId,
    BatchNotFoundError,
    FileId,
    Line,
    LineFault,
    Status,
)
from mesh.identity import Caller, OrgId, UserId
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.tables import metadata, moment, owner_columns

batches = Table(
    "batches",
    metadata,
    Column("batch_id", Text, primary_key=True),
    *owner_columns(),
    Column("token_id", Text, nullable=False),
    moment("created_at"),
    moment("changed_at"),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", Text, nullable=False),
    Column("completion_window", Text, nullable=False),
    moment("expires_at"),
    Column("status", Text, nullable=False),
    Column("faults", JSONB, nullable=False),
    Column("output_file_id", Text, nullable=False),
    Column("error_file_id", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("metadata", JSONB, nullable=False),
    moment("in_progress_at", nullable=True),
    moment("finalizing_at", nullable=True),
    moment("cancelling_at", nullable=True),
    moment("ended_at", nullable=True),
    Column("lease_token", Text, nullable=False),
    moment("lease_until", nullable=True),
)
_IS_UNFINISHED: ColumnElement[bool] = batches.c.status.in_([each.value for each in UNFINISHED])
Index("ix_batches_created_at_batch_id", batches.c.created_at, batches.c.batch_id)
Index("ix_batches_unfinished", batches.c.changed_at, postgresql_where=_IS_UNFINISHED)

lines = Table(
    "batch_lines",
    metadata,
    Column("batch_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("custom_id", Text, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("length", Integer, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("answer", Text, nullable=False),
    Column("ok", Boolean, nullable=False),
)
_OPEN: ColumnElement[bool] = lines.c.answer == ""
Index("ix_batch_lines_open", lines.c.batch_id, lines.c.number, postgresql_where=_OPEN)
_SPECIAL = ("status", "faults", "metadata")
_PLAIN = tuple(each.name for each in fields(Batch) if each.name not in _SPECIAL)
_LINE = tuple(each.name for each in fields(Line))


class SqlBatchStore:
    """Rows of batches. Whoever asks sees those of their organisation; row-level security says so again."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def now(self) -> datetime:
        """The database's clock, by which leases run."""
        now: datetime = (await self._connection.execute(select(func.now()))).scalar_one()
        return now

    async def get(self, batch_id: str, caller: Caller, *, lock: bool = False) -> Batch:
        """The batch, locked until the transaction ends on request. BatchNotFoundError without one to see."""
        query = select(batches).where(batches.c.batch_id == batch_id, _visible(caller))
        row = (await self._connection.execute(query.with_for_update() if lock else query)).one_or_none()
        if row is None:
            raise BatchNotFoundError(batch_id)
        return _batch(row)

    async def page(self, caller: Caller, page: PageRequest, after: str) -> Page[Batch]:
        """Those of one page, newest first; `after` is the id of one to begin behind, or empty."""
        keyset = Keyset(batches.c.created_at, batches.c.batch_id, "batches")
        query = keyset.apply(select(batches).where(_visible(caller)), page)
        if after:
            last = await self.get(after, caller)
            query = query.where(tuple_(batches.c.created_at, batches.c.batch_id) < (last.created_at, last.batch_id))
        return keyset.page((await self._connection.execute(query)).all(), page, _batch)

    async def add(self, batch: Batch) -> None:
        """A new row."""
        await self._connection.execute(insert(batches).values({**_row(batch), "lease_token": ""}))

    async def save(self, batch: Batch) -> None:
        """The row as the batch says; whoever works at it keeps its lease."""
        await self._connection.execute(update(batches).where(batches.c.batch_id == batch.batch_id).values(_row(batch)))

    async def working_at(self, file_id: str) -> str:
        """An unfinished batch that reads the file; empty without one."""
        query = select(batches.c.batch_id).where(batches.c.input_file_id == file_id, _IS_UNFINISHED).limit(1)
        return (await self._connection.execute(query)).scalar_one_or_none() or ""

    async def claim(self, lease_token: str, lease: timedelta) -> Batch | None:
        """The batch that nobody has worked at for longest, for as long as the lease: so they take turns."""
        table = batches.c
        free = or_(table.lease_until.is_(None), table.lease_until < func.now())
        longest = select(table.batch_id).where(_IS_UNFINISHED, free).order_by(table.changed_at).limit(1)
        statement = (
            update(batches)
            .where(table.batch_id.in_(longest.with_for_update(skip_locked=True)))
            .values(lease_token=lease_token, lease_until=func.now() + lease, changed_at=func.now())
            .returning(batches)
        )
        row = (await self._connection.execute(statement)).one_or_none()
        return _batch(row) if row is not None else None

    async def held(self, batch_id: BatchId, lease_token: str) -> Batch | None:
        """The batch, locked, as long as its worker holds it."""
        mine = and_(batches.c.batch_id == batch_id, batches.c.lease_token == lease_token)
        row = (await self._connection.execute(select(batches).where(mine).with_for_update())).one_or_none()
        return _batch(row) if row is not None else None

    async def keep(self, lease_token: str, lease: timedelta) -> None:
        """Holds on for as long as the lease."""
        until = {"lease_until": func.now() + lease}
        await self._connection.execute(update(batches).where(batches.c.lease_token == lease_token).values(until))

    async def rest(self, lease_token: str, pause: timedelta) -> None:
        """Gives back what a worker holds; nobody works at it for so long."""
        values = {"lease_token": "", "lease_until": func.now() + pause}
        await self._connection.execute(update(batches).where(batches.c.lease_token == lease_token).values(values))

    async def add_lines(self, batch: Batch, found: Sequence[Line]) -> None:
        """The requests of a batch, anew."""
        await self.remove_lines(batch.batch_id)
        key = {"batch_id": batch.batch_id, "org_id": batch.org_id}
        for start in range(0, len(found), 2000):
            values = [{**key, **asdict(line)} for line in found[start : start + 2000]]
            await self._connection.execute(insert(lines), values)

    async def open_lines(self, batch_id: BatchId, limit: int) -> tuple[Line, ...]:
        """The first ones without an answer; those that were tried least come first."""
        query = select(lines).where(lines.c.batch_id == batch_id, _OPEN)
        rows = await self._connection.execute(query.order_by(lines.c.tries, lines.c.number).limit(limit))
        return tuple(map(_line, rows))

    async def answer(self, batch_id: BatchId, given: Iterable[Line]) -> None:
        """Keeps answers and tries. A line that has its answer keeps it."""
        for line in given:
            mine = and_(lines.c.batch_id == batch_id, lines.c.number == line.number, _OPEN)
            values = {"tries": line.tries, "answer": line.answer, "ok": line.ok}
            await self._connection.execute(update(lines).where(mine).values(values))

    async def counts(self, batch_id: BatchId) -> tuple[int, int]:
        """How many answers are good, and how many are not."""
        query = select(lines.c.ok, func.count()).where(lines.c.batch_id == batch_id, ~_OPEN).group_by(lines.c.ok)
        found: dict[bool, int] = dict((await self._connection.execute(query)).tuples().all())
        return found.get(True, 0), found.get(False, 0)

    async def lines_from(self, batch_id: BatchId, number: int, limit: int) -> tuple[Line, ...]:
        """The lines behind a number, in the file's order."""
        query = select(lines).where(lines.c.batch_id == batch_id, lines.c.number > number)
        return tuple(map(_line, await self._connection.execute(query.order_by(lines.c.number).limit(limit))))

    async def remove_lines(self, batch_id: BatchId) -> None:
        """Forgets the lines: the files have them."""
        await self._connection.execute(delete(lines).where(lines.c.batch_id == batch_id))


def _visible(caller: Caller) -> ColumnElement[bool]:
    return batches.c.org_id == caller.org_id if not caller.sees_all else batches.c.org_id.is_not(None)


def _row(batch: Batch) -> dict[str, Any]:
    return {
        **{name: getattr(batch, name) for name in _PLAIN},
        "status": batch.status.value,
        "faults": [asdict(fault) for fault in batch.faults],
        "metadata": dict(batch.metadata),
    }


def _batch(row: Any) -> Batch:
    values = row._mapping
    plain = {name: values[name] for name in _PLAIN}
    return Batch(
        **{
            **plain,
            "batch_id": BatchId(plain["batch_id"]),
            "org_id": OrgId(plain["org_id"]),
            "user_id": UserId(plain["user_id"]),
            "input_file_id": FileId(plain["input_file_id"]),
        },
        status=Status(values["status"]),
        faults=tuple(LineFault(**fault) for fault in values["faults"]),
        metadata=values["metadata"],
    )


def _line(row: Any) -> Line:
    return Line(**{name: row._mapping[name] for name in _LINE})
