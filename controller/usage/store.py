"""The ledger in PostgreSQL: a row for each request, and sums by the hour that are kept when the rows go."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    Numeric,
    RowMapping,
    Select,
    Table,
    Text,
    delete,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.deployments.model import DeploymentId
from controller.deployments.store import deployments
from controller.deployments.traffic_store import SqlTrafficStore
from controller.usage.model import (
    Amounts,
    Group,
    RequestUsage,
    UsageFilter,
    UsageSum,
    by_account,
    traffic_of,
)
from mesh.identity import Caller
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.tables import metadata, moment

usage_records = Table(
    "usage_records",
    metadata,
    Column("usage_id", Text, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("api_key_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("deployment_id", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    moment("started_at"),
    Column("duration_ms", Float, nullable=False),
    Column("first_byte_ms", Float, nullable=False),
    Column("status", Integer, nullable=False),
    Column("streamed", Boolean, nullable=False),
    Column("counted", Boolean, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("request_bytes", Float, nullable=False),
    Column("response_bytes", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("flags", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("degraded", Boolean, nullable=False),
    Column("gpu_seconds", Float, nullable=False),
    Column("route_name", Text, nullable=False),
    Column("cost", Numeric, nullable=False),
    Column("route_id", Text, nullable=False),
    Column("intended_target", Text, nullable=False),
    Column("mirrored", Boolean, nullable=False),
    moment("ended_at"),
)
# What rollouts look at.
Index(
    "ix_usage_records_route_id_ended_at",
    usage_records.c.route_id,
    usage_records.c.ended_at,
    postgresql_where=usage_records.c.route_id != "",
)
_KEPT = [field.name for field in fields(RequestUsage)]
_KEPT_OF_EACH = [usage_records.c[name] for name in _KEPT]
_values = attrgetter(*_KEPT)
Index("ix_usage_records_org_id_started_at", usage_records.c.org_id, usage_records.c.started_at)
Index("ix_usage_records_started_at_usage_id", usage_records.c.started_at, usage_records.c.usage_id)
_AMOUNTS = [field.name for field in fields(Amounts)]
# A member of `Amounts` and the column that it is kept in.
_COLUMNS: Mapping[object, type[BigInteger] | type[Float[float]] | type[Numeric[Decimal]]] = {
    int: BigInteger,
    float: Float,
    Decimal: Numeric,
}
usage_hours = Table(
    "usage_hours",
    metadata,
    Column("hour", moment("hour").type, primary_key=True),
    Column("org_id", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("deployment_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("api_key_id", Text, primary_key=True),
    *(Column(field.name, _COLUMNS[field.type], nullable=False) for field in fields(Amounts)),
)
_DAY = func.date_trunc("day", usage_hours.c.hour, "UTC")
_GROUPS: Mapping[Group, ColumnElement[Any]] = {
    Group.HOUR: usage_hours.c.hour,
    Group.DAY: _DAY,
    Group.MODEL: usage_hours.c.model,
    Group.DEPLOYMENT: usage_hours.c.deployment_id,
    Group.USER: usage_hours.c.user_id,
    Group.KEY: usage_hours.c.api_key_id,
    Group.ORGANIZATION: usage_hours.c.org_id,
}
FORGET_AT_ONCE = 10_000


class SqlLedger:
    """Rows of requests and their sums. Whoever asks sees those of their organisation."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def enter(self, told: Sequence[RequestUsage]) -> Sequence[RequestUsage]:
        """Keeps the requests that are new and adds them up; which those were. Does not commit."""
        held = await self._gpus({each.deployment_id for each in told})
        used = [_with_gpus(each, held.get(each.deployment_id, 0)) for each in told]
        rows = insert(usage_records).on_conflict_do_nothing().returning(usage_records.c.usage_id)
        ids = set((await self._connection.execute(rows, [_row(each) for each in used])).scalars())
        new = list({each.usage_id: each for each in used if each.usage_id in ids}.values())
        # Copies of requests are nobody's use of the platform.
        await self._add_up([each for each in new if not each.mirrored])
        return new

    async def sums(
        self, caller: Caller, wanted: UsageFilter, groups: Sequence[Group], offset: int, limit: int
    ) -> Sequence[UsageSum]:
        """A page of sums, newest first and then by the other groups."""
        amounts = [func.coalesce(func.sum(usage_hours.c[name]), 0).label(name) for name in _AMOUNTS]
        columns = [_GROUPS[group].label(f"by_{group.value}") for group in groups]
        periods = [_GROUPS[group].desc() for group in groups if group in (Group.HOUR, Group.DAY)]
        others = [_GROUPS[group] for group in groups if group not in (Group.HOUR, Group.DAY)]
        query = select(*columns, *amounts).where(*of_hours(caller, wanted))
        query = query.group_by(*(_GROUPS[group] for group in groups)).order_by(*periods, *others)
        rows = await self._connection.execute(query.offset(offset).limit(limit))
        return [_sum(row._mapping, groups) for row in rows]

    async def records(self, caller: Caller, wanted: UsageFilter, page: PageRequest) -> Page[RequestUsage]:
        """A page of requests, newest first."""
        keyset = Keyset(usage_records.c.started_at, usage_records.c.usage_id, "usage", wanted)
        query: Select[Any] = select(*_KEPT_OF_EACH).where(*_of_records(caller, wanted))
        rows = (await self._connection.execute(keyset.apply(query, page))).all()
        return keyset.page(rows, page, lambda row: RequestUsage(**row._mapping))

    async def forget(self, before: datetime) -> int:
        """Removes some of the requests that began before; their sums stay."""
        old = select(usage_records.c.usage_id).where(usage_records.c.started_at < before).limit(FORGET_AT_ONCE)
        done = await self._connection.execute(delete(usage_records).where(usage_records.c.usage_id.in_(old)))
        return done.rowcount

    async def _add_up(self, used: Sequence[RequestUsage]) -> None:
        rows = [{**asdict(account), **asdict(amounts)} for account, amounts in by_account(used).items()]
        if rows:
            added = insert(usage_hours)
            kept = {name: usage_hours.c[name] + added.excluded[name] for name in _AMOUNTS}
            await self._connection.execute(
                added.on_conflict_do_update(index_elements=list(usage_hours.primary_key.columns), set_=kept), rows
            )
        traffic = SqlTrafficStore(self._connection)
        for (org_id, deployment_id), more in traffic_of(used).items():
            await traffic.add(org_id, deployment_id, more)

    async def _gpus(self, ids: Collection[DeploymentId]) -> Mapping[DeploymentId, int]:
        """How many GPUs each deployment holds."""
        query = select(deployments.c.deployment_id, func.cardinality(deployments.c.gpu_devices).label("gpus"))
        rows = await self._connection.execute(query.where(deployments.c.deployment_id.in_(ids)))
        return {DeploymentId(row.deployment_id): row.gpus for row in rows}


def _with_gpus(used: RequestUsage, gpus: int) -> RequestUsage:
    return replace(used, gpu_seconds=gpus * used.duration_ms / 1000) if gpus else used


def _row(used: RequestUsage) -> dict[str, object]:
    # `asdict` copies every member, which took a seventh of all the processor time that a row took.
    return {**dict(zip(_KEPT, _values(used), strict=True)), "ended_at": used.ended_at}


def of_hours(caller: Caller, wanted: UsageFilter) -> list[ColumnElement[bool]]:
    """What narrows sums to what is asked for and may be seen."""
    table = usage_hours.c
    since = [table.hour >= func.date_trunc("hour", wanted.since, "UTC")] if wanted.since else []
    until = [table.hour < wanted.until] if wanted.until else []
    return [*_narrowed(usage_hours, caller, wanted), *since, *until]


def _of_records(caller: Caller, wanted: UsageFilter) -> list[ColumnElement[bool]]:
    table = usage_records.c
    since = [table.started_at >= wanted.since] if wanted.since else []
    until = [table.started_at < wanted.until] if wanted.until else []
    return [*_narrowed(usage_records, caller, wanted), *since, *until]


def _narrowed(table: Table, caller: Caller, wanted: UsageFilter) -> list[ColumnElement[bool]]:
    asked = {
        "model": wanted.model,
        "deployment_id": wanted.deployment_id,
        "user_id": wanted.user_id,
        "api_key_id": wanted.api_key_id,
        "org_id": "" if caller.sees_all else caller.org_id,
    }
    return [table.c[name] == value for name, value in asked.items() if value]


def _sum(row: RowMapping, groups: Sequence[Group]) -> UsageSum:
    # PostgreSQL adds whole numbers up to decimals.
    amounts: dict[str, Any] = {name: usage_hours.c[name].type.python_type(row[name]) for name in _AMOUNTS}
    return UsageSum({group: row[f"by_{group.value}"] for group in groups}, Amounts(**amounts))
