"""Quotas in PostgreSQL, and a row for what was used of each in each window."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    Numeric,
    Row,
    Table,
    Text,
    delete,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as insert_new
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.quotas.counting import Place
from controller.quotas.model import Budget, Limits, Measure, Quota, QuotaId, QuotaNotFoundError, Subject, Used
from controller.quotas.windows import Period
from mesh.identity import Caller, OrgId, UserId
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.snapshot import Snapshot, changed_since
from mesh.sql.tables import audit_columns, metadata, moment, owner_columns

quotas = Table(
    "quotas",
    metadata,
    Column("quota_id", Text, primary_key=True),
    *owner_columns(),
    *audit_columns(),
    Column("subject", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("limits", JSONB, nullable=False),
    Column("imposed", Boolean, nullable=False),
    Column("version", Integer, nullable=False),
)
_KEPT: ColumnElement[bool] = quotas.c.deleted_at.is_(None)
Index("ix_quotas_created_at_quota_id", quotas.c.created_at, quotas.c.quota_id)

quota_windows = Table(
    "quota_windows",
    metadata,
    Column("quota_id", Text, primary_key=True),
    Column("measure", Text, primary_key=True),
    Column("period", Text, primary_key=True),
    Column("since", moment("since").type, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("amount", Numeric, nullable=False),
)
Index("ix_quota_windows_period_since", quota_windows.c.period, quota_windows.c.since)


class SqlQuotaStore:
    """Rows of quotas. Whoever asks sees those of their organisation; row-level security says so again."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, quota_id: str, caller: Caller, *, lock: bool = False) -> Quota:
        """The quota of that id, deleted or not. QuotaNotFoundError."""
        query = select(quotas).where(quotas.c.quota_id == quota_id, _visible(caller))
        row = (await self._connection.execute(query.with_for_update() if lock else query)).first()
        if row is None:
            raise QuotaNotFoundError(quota_id)
        return _quota(row)

    async def page(self, caller: Caller, page: PageRequest) -> Page[Quota]:
        """The quotas of one page, newest first."""
        keyset = Keyset(quotas.c.created_at, quotas.c.quota_id, "quotas")
        query = keyset.apply(select(quotas).where(_visible(caller), _KEPT), page)
        return keyset.page((await self._connection.execute(query)).all(), page, _quota)

    async def changed(self, since: Snapshot | None) -> tuple[Quota, ...]:
        """The quotas that changed since then, deleted ones too; every quota that is kept without a snapshot."""
        query = select(quotas).where(_KEPT if since is None else changed_since(quotas, since))
        return tuple(_quota(row) for row in (await self._connection.execute(query)).all())

    async def add(self, quota: Quota) -> None:
        """A new row."""
        await self._connection.execute(insert(quotas).values(_row(quota)))

    async def save(self, quota: Quota) -> None:
        """The row as the quota says."""
        key = quotas.c.quota_id == quota.quota_id
        await self._connection.execute(update(quotas).where(key).values(_row(quota)))

    async def used(self, wanted: Sequence[Quota], now: datetime) -> dict[QuotaId, tuple[Used, ...]]:
        """What was used of each limit in the windows that are open now."""
        open_now = {period: period.window(now) for period in Period}
        query = select(quota_windows).where(quota_windows.c.quota_id.in_([each.quota_id for each in wanted]))
        query = query.where(quota_windows.c.since.in_([window.since for window in open_now.values()]))
        rows = (await self._connection.execute(query)).all()
        amounts = {(row.quota_id, row.measure, row.period, row.since): row.amount for row in rows}
        found = {}
        for quota in wanted:
            limits = [(limit, open_now[limit.period]) for limit in quota.limits.every()]
            keys = [(quota.quota_id, limit.measure.value, limit.period.value, at.since) for limit, at in limits]
            counted = [amounts.get(key, Decimal(0)) for key in keys]
            found[quota.quota_id] = tuple(Used(*each, amount) for each, amount in zip(limits, counted, strict=True))
        return found

    async def of_organisations(self, org_ids: Collection[OrgId]) -> tuple[Quota, ...]:
        """The quotas of some organisations, locked in no way."""
        query = select(quotas).where(_KEPT, quotas.c.org_id.in_(org_ids)).order_by(quotas.c.quota_id)
        return tuple(_quota(row) for row in (await self._connection.execute(query)).all())

    async def rate_limits(self, org_id: OrgId, user_id: UserId) -> dict[str, int]:
        """How many requests of all models together a user may make, by the contract's names."""
        found: dict[str, int] = {}
        mine = {(Subject.ORGANIZATION, str(org_id)), (Subject.USER, str(user_id))}
        for quota in await self.of_organisations([org_id]):
            if (quota.subject, quota.subject_id) in mine and not quota.model:
                for limit in (each for each in quota.limits.every() if each.measure is Measure.REQUESTS):
                    found[limit.name] = min(int(limit.amount), found.get(limit.name, int(limit.amount)))
        return found

    async def add_up(self, amounts: Mapping[Place, Decimal]) -> dict[Place, Decimal]:
        """Adds to what was counted; how much that is now. The order is the same for everybody who adds."""
        added = insert_new(quota_windows)
        written = added.on_conflict_do_update(
            index_elements=list(quota_windows.primary_key.columns),
            set_={"amount": quota_windows.c.amount + added.excluded.amount},
        ).returning(quota_windows)
        rows = [{**asdict(place), "amount": amounts[place]} for place in sorted(amounts)]
        found = (await self._connection.execute(written, rows)).all()
        return {
            Place(QuotaId(row.quota_id), row.measure, row.period, row.since, OrgId(row.org_id)): row.amount
            for row in found
        }

    async def spent(self, now: datetime) -> list[tuple[Quota, Used]]:
        """Of every quota the limits of which nothing is left in the windows that are open now."""
        open_now = {period.value: period.window(now) for period in Period}
        key, windows = tuple_(quota_windows.c.period, quota_windows.c.since), list(open_now.items())
        counted = (quota_windows.c.measure, quota_windows.c.period, quota_windows.c.amount)
        query = select(quotas, *counted).join(quota_windows, quota_windows.c.quota_id == quotas.c.quota_id)
        query = query.where(_KEPT, key.in_([(period, window.since) for period, window in windows]))
        rows = (await self._connection.execute(query.order_by(quotas.c.quota_id))).all()
        found = []
        for row in rows:
            quota, window = _quota(row), open_now[row.period]
            limits = [each for each in quota.limits.every() if each.key == (Measure(row.measure), Period(row.period))]
            used = [Used(limit, window, row.amount) for limit in limits]
            found += [(quota, each) for each in used if each.is_spent]
        return found

    async def forget(self, before: Mapping[Period, datetime]) -> None:
        """Removes windows that began before."""
        for period, since in before.items():
            old = (quota_windows.c.period == period.value) & (quota_windows.c.since < since)
            await self._connection.execute(delete(quota_windows).where(old))


def _visible(caller: Caller) -> ColumnElement[bool]:
    return quotas.c.org_id == caller.org_id if not caller.sees_all else quotas.c.org_id.is_not(None)


_PLAIN = ("created_at", "changed_at", "deleted_at", "subject_id", "model", "imposed", "version")


def _quota(row: Row[Any]) -> Quota:
    return Quota(
        quota_id=QuotaId(row.quota_id),
        org_id=OrgId(row.org_id),
        user_id=UserId(row.user_id),
        subject=Subject(row.subject),
        limits=_limits(row.limits),
        **{name: row._mapping[name] for name in _PLAIN},
    )


def _limits(row: Mapping[str, Any]) -> Limits:
    budget = row["budget"]
    return Limits(**{**row, "budget": Budget(budget["amount"], Period(budget["period"]))})


def _row(quota: Quota) -> dict[str, Any]:
    limits = asdict(quota.limits)
    limits["budget"] = {"amount": quota.limits.budget.amount, "period": quota.limits.budget.period.value}
    plain = {name: getattr(quota, name) for name in ("quota_id", "org_id", "user_id", *_PLAIN)}
    return {**plain, "subject": quota.subject.value, "limits": limits}
