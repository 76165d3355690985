"""What engines counted, in PostgreSQL: their counters as last heard, and by how much they grew on each day."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, time
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, Table, Text, and_, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.deployments.store import deployments
from controller.nodes.counters import EngineCount
from controller.usage.engines import Counted, Counters, DaysWanted, ReconciledDay, grown
from controller.usage.store import of_hours, usage_hours
from mesh.identity import Caller
from mesh.sql.tables import metadata, moment

_COUNTED = ("input_tokens", "output_tokens", "requests")
engine_counters = Table(
    "engine_counters",
    metadata,
    Column("deployment_id", Text, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    moment("started_at", nullable=True),
    *(Column(name, BigInteger) for name in _COUNTED),
)
engine_days = Table(
    "engine_days",
    metadata,
    Column("day", moment("day").type, primary_key=True),
    Column("deployment_id", Text, primary_key=True),
    Column("org_id", Text, nullable=False),
    moment("since"),
    *(Column(name, BigInteger) for name in _COUNTED),
)


class SqlEngineStore:
    """Rows of counters. Heartbeats write them, who asks sees those of their organisation."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def count(self, said: Sequence[EngineCount], now: datetime) -> None:
        """Adds what the counters grew by to the day of `now`; of deployments that are on the node that says so."""
        # In one order for everybody, so that two who write several never wait for each other. One deployment's stay in
        # the order in which they were said.
        said = sorted(said, key=lambda each: each.deployment_id)
        ids = list({each.deployment_id for each in said})
        owners = await self._owners(ids)
        last, midnight = await self._last(ids), datetime.combine(now.astimezone(UTC).date(), time(), UTC)
        heard, days = dict[str, dict[str, Any]](), list[dict[str, Any]]()
        for each in said:
            node_id, epoch, org_id = owners.get(each.deployment_id, ("", 0, ""))
            if each.node_id != node_id or each.epoch > epoch:
                continue
            counted = Counted(each.input_tokens, each.output_tokens, each.requests)
            counters = Counters(each.epoch, each.started_at, counted)
            more = grown(last.get(each.deployment_id), counters, midnight)
            if more is None:
                continue
            last[each.deployment_id] = counters
            whose = {"deployment_id": each.deployment_id, "org_id": org_id}
            heard[each.deployment_id] = {
                **whose,
                "epoch": each.epoch,
                "started_at": each.started_at,
                **asdict(counted),
            }
            days.append({**whose, "day": midnight, "since": now, **asdict(more)})
        if heard:
            await self._write(list(heard.values()), days)

    async def reconciled(self, caller: Caller, wanted: DaysWanted, offset: int, limit: int) -> Sequence[ReconciledDay]:
        """A page of days, newest first and then by deployment."""
        day = func.date_trunc("day", usage_hours.c.hour, "UTC").label("day")
        sums = {name: func.sum(usage_hours.c[name]).label(name) for name in (*_COUNTED, "counted")}
        ledger = (
            select(day, usage_hours.c.deployment_id, *sums.values())
            .where(*of_hours(caller, wanted.requests), usage_hours.c.deployment_id != "")
            .group_by(day, usage_hours.c.deployment_id)
            .subquery("ledger")
        )
        engines = select(engine_days).where(*_of_days(caller, wanted)).subquery("engines")
        same = and_(ledger.c.day == engines.c.day, ledger.c.deployment_id == engines.c.deployment_id)
        days = func.coalesce(ledger.c.day, engines.c.day).label("day")
        deployment_id = func.coalesce(ledger.c.deployment_id, engines.c.deployment_id).label("deployment_id")
        query = (
            select(
                days,
                deployment_id,
                engines.c.since,
                *(func.coalesce(ledger.c[name], 0).label(f"ledger_{name}") for name in sums),
                *(engines.c[name].label(f"engine_{name}") for name in _COUNTED),
            )
            .select_from(ledger.join(engines, same, full=True))
            .order_by(days.desc(), deployment_id)
        )
        rows = await self._connection.execute(query.offset(offset).limit(limit))
        return [_day(row._mapping) for row in rows]

    async def _owners(self, ids: Sequence[str]) -> dict[str, tuple[str, int, str]]:
        """Where each deployment is, its epoch, and whose it is."""
        of = deployments.c
        rows = await self._connection.execute(
            select(of.deployment_id, of.node_id, of.epoch, of.org_id).where(of.deployment_id.in_(ids))
        )
        return {row.deployment_id: (row.node_id, row.epoch, row.org_id) for row in rows}

    async def _last(self, ids: Sequence[str]) -> dict[str, Counters]:
        of = engine_counters.c
        rows = await self._connection.execute(
            select(engine_counters).where(of.deployment_id.in_(ids)).order_by(of.deployment_id).with_for_update()
        )
        return {row.deployment_id: Counters(row.epoch, row.started_at, _counted(row._mapping)) for row in rows}

    async def _write(self, heard: Sequence[Mapping[str, Any]], days: Sequence[Mapping[str, Any]]) -> None:
        row = insert(engine_counters)
        moved = {name: row.excluded[name] for name in ("epoch", "started_at", *_COUNTED)}
        await self._connection.execute(
            row.on_conflict_do_update(index_elements=["deployment_id"], set_=moved), list(heard)
        )
        more = insert(engine_days)
        added = dict(_added(more.excluded))
        await self._connection.execute(
            more.on_conflict_do_update(index_elements=["day", "deployment_id"], set_=added), list(days)
        )


def _added(more: Any) -> Iterator[tuple[str, ColumnElement[Any]]]:
    """What is not counted stays so, and what begins to be counted in the middle of a day counts from there."""
    for name in _COUNTED:
        kept = engine_days.c[name]
        either = func.coalesce(kept, more[name])
        yield name, func.coalesce(kept + more[name], either)


def _of_days(caller: Caller, wanted: DaysWanted) -> list[ColumnElement[bool]]:
    of = engine_days.c
    mine = [] if caller.sees_all else [of.org_id == caller.org_id]
    one = [of.deployment_id == wanted.deployment_id] if wanted.deployment_id else []
    since = [of.day >= wanted.since] if wanted.since else []
    until = [of.day < wanted.until] if wanted.until else []
    return [*mine, *one, *since, *until]


def _counted(row: Mapping[Any, Any], prefix: str = "") -> Counted:
    return Counted(**{name: row[prefix + name] for name in _COUNTED})


def _day(row: Mapping[Any, Any]) -> ReconciledDay:
    return ReconciledDay(
        day=row["day"],
        deployment_id=row["deployment_id"],
        since=row["since"],
        ledger_requests=int(row["ledger_requests"]),
        ledger_counted=int(row["ledger_counted"]),
        ledger_input_tokens=int(row["ledger_input_tokens"]),
        ledger_output_tokens=int(row["ledger_output_tokens"]),
        engine=_counted(row, "engine_"),
    )
