"""Counts what requests used for the quotas that they fall under, in the transaction that enters them in the ledger."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

from controller.quotas.model import BudgetReached, Limit, Measure, Quota, QuotaId, Subject
from controller.quotas.windows import Period, Window
from mesh.identity import OrgId

# Shares of a budget that people hear of, in percent.
SHARES = (80, 100)
# Requests may be told of some time after they ended.
KEPT = {
    Period.MINUTE: timedelta(hours=1),
    Period.HOUR: timedelta(days=2),
    Period.DAY: timedelta(days=9),
    Period.MONTH: timedelta(days=62),
}


@dataclass(frozen=True, slots=True)
class Consumption:
    """What one request used. `model` is the name that quotas know the model by."""

    org_id: OrgId
    user_id: str
    api_key_id: str
    model: str
    started_at: datetime
    ended_at: datetime
    tokens: int
    cost: Decimal

    @property
    def subjects(self) -> Iterator[tuple[OrgId, Subject, str]]:
        """Whose it is."""
        yield self.org_id, Subject.API_KEY, self.api_key_id
        yield self.org_id, Subject.USER, self.user_id
        yield self.org_id, Subject.ORGANIZATION, self.org_id

    def amount(self, measure: Measure) -> Decimal:
        """How much of it."""
        return {Measure.REQUESTS: Decimal(1), Measure.TOKENS: Decimal(self.tokens), Measure.COST: self.cost}[measure]

    def at(self, measure: Measure) -> datetime:
        """When it counts: a request when it came, what it used when that was known."""
        return self.started_at if measure is Measure.REQUESTS else self.ended_at


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something is counted."""

    quota_id: QuotaId
    measure: str
    period: str
    since: datetime
    org_id: OrgId


class QuotaStore(Protocol):
    async def of_organisations(self, org_ids: Collection[OrgId]) -> Sequence[Quota]: ...
    async def add_up(self, amounts: Mapping[Place, Decimal]) -> Mapping[Place, Decimal]: ...


class Work(Protocol):
    """The transaction of the ledger."""

    @property
    def quotas(self) -> QuotaStore: ...


@dataclass(frozen=True, slots=True)
class Counted:
    """What came of it: events to tell, and whether something is spent that was not before."""

    events: tuple[BudgetReached, ...] = ()
    spent: bool = False


async def count(work: Work, used: Sequence[Consumption], now: datetime) -> Counted:
    """Adds up what the requests used. Does not commit."""
    quotas = await work.quotas.of_organisations({each.org_id for each in used})
    known = defaultdict[tuple[OrgId, Subject, str], list[Quota]](list)
    for quota in quotas:
        known[quota.org_id, quota.subject, quota.subject_id].append(quota)
    amounts = defaultdict[Place, Decimal](Decimal)
    limits: dict[Place, tuple[Quota, Limit, Window]] = {}
    for each in used:
        for quota in (quota for subject in each.subjects for quota in known.get(subject, ())):
            for limit in quota.limits.every() if quota.model in ("", each.model) else ():
                window = limit.period.window(each.at(limit.measure))
                place = _place(quota, limit, window)
                amounts[place] += each.amount(limit.measure)
                limits[place] = (quota, limit, window)
    counted = {place: amount for place, amount in amounts.items() if amount}
    after = await work.quotas.add_up(counted) if counted else {}
    reached = [event for place in after for event in _reached(*limits[place], after[place], amounts[place], now)]
    spent = any(after[place] - amounts[place] < limits[place][1].amount <= after[place] for place in after)
    return Counted(tuple(reached), spent)


def _place(quota: Quota, limit: Limit, window: Window) -> Place:
    return Place(quota.quota_id, limit.measure.value, limit.period.value, window.since, quota.org_id)


def _reached(
    quota: Quota, limit: Limit, window: Window, after: Decimal, added: Decimal, now: datetime
) -> Iterator[BudgetReached]:
    if limit.measure is not Measure.COST:
        return
    for percent in SHARES:
        share = limit.amount * percent / 100
        if after - added < share <= after:
            yield BudgetReached(quota, percent, after, limit.amount, window.until, now)


def forgotten(now: datetime) -> dict[Period, datetime]:
    """Before when windows of each period are of no use any more."""
    return {period: now - kept for period, kept in KEPT.items()}
