"""Who has nothing left of some limit, as a feed for gateways."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from controller.hints import Hints
from controller.quotas.model import Measure, Quota, Subject, Used
from mesh.identity import SYSTEM, Caller, OrgId

# A hint comes from this process only; other controllers' changes are found by looking.
POLL = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Spent:
    """Somebody whose requests are refused until a time; None is no end."""

    org_id: OrgId
    subject: Subject
    subject_id: str
    model: str
    until: datetime | None
    message: str
    budget: bool


class QuotaStore(Protocol):
    async def spent(self, now: datetime) -> Sequence[tuple[Quota, Used]]: ...


class Clockwork(Protocol):
    async def now(self) -> datetime: ...


class Work(Protocol):
    """One reading connection with the stores on it."""

    @property
    def quotas(self) -> QuotaStore: ...
    @property
    def nodes(self) -> Clockwork: ...


class UnitOfWork(Protocol):
    """Opens connections that only read."""

    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class SpentFeed:
    """What gateways follow."""

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints) -> None:
        self._unit_of_work = unit_of_work
        self._hints = hints

    async def watch(self) -> AsyncGenerator[tuple[Spent, ...], None]:
        """Everybody, then everybody again whenever that changes."""
        seen: tuple[Spent, ...] | None = None
        with self._hints.watching_quotas() as wake:
            while True:
                now = await self._look()
                if now != seen:
                    seen = now
                    yield now
                await wake.wait(POLL)

    async def _look(self) -> tuple[Spent, ...]:
        async with self._unit_of_work.reading(SYSTEM) as work:
            return longest(await work.quotas.spent(await work.nodes.now()))


def longest(spent: Iterable[tuple[Quota, Used]]) -> tuple[Spent, ...]:
    """Of what somebody has spent, the limit that begins anew last."""
    found: dict[tuple[str, ...], tuple[Quota, Used]] = {}
    for quota, used in spent:
        who = (quota.org_id, quota.subject.value, quota.subject_id, quota.model)
        if who not in found or _lasts(used) > _lasts(found[who][1]):
            found[who] = (quota, used)
    return tuple(_told(*found[who]) for who in sorted(found))


def _lasts(used: Used) -> float:
    return used.window.until.timestamp() if used.window.until else float("inf")


def _told(quota: Quota, used: Used) -> Spent:
    budget = used.limit.measure is Measure.COST
    until = used.window.until
    again = f"it begins anew at {until:%Y-%m-%dT%H:%M:%SZ}" if until else "it is not renewed"
    if budget:
        raised = f"or ask whoever manages quotas to raise {quota.quota_id}"
        text = f"{quota.whose} has spent its budget of {quota.limits.budget.amount}; {again}, {raised}"
    else:
        of = used.limit.name.replace("_", " ")
        text = f"{quota.whose} has used its {used.limit.amount:f} {of} (quota {quota.quota_id}); {again}"
    return Spent(quota.org_id, quota.subject, quota.subject_id, quota.model, until, text, budget)
