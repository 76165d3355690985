"""The use cases of the ledger."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol

from controller.hints import Hints
from controller.quotas.counting import Consumption, count, forgotten
from controller.quotas.counting import QuotaStore as CountingStore
from controller.quotas.windows import Period
from controller.usage.engines import DaysWanted, ReconciledDay
from controller.usage.model import Group, RequestUsage, UsageFilter, UsageSum
from mesh.clock import Clock
from mesh.identity import SYSTEM, Caller
from mesh.sql.paging import Offsets, Page, PageRequest

log = logging.getLogger(__name__)
SOON = timedelta(seconds=1)


class Ledger(Protocol):
    """Where requests are kept and added up."""

    async def enter(self, told: Sequence[RequestUsage]) -> Sequence[RequestUsage]: ...
    async def sums(
        self, caller: Caller, wanted: UsageFilter, groups: Sequence[Group], offset: int, limit: int
    ) -> Sequence[UsageSum]: ...
    async def records(self, caller: Caller, wanted: UsageFilter, page: PageRequest) -> Page[RequestUsage]: ...
    async def forget(self, before: datetime) -> int: ...


class EngineStore(Protocol):
    """Where it is kept what engines counted."""

    async def reconciled(
        self, caller: Caller, wanted: DaysWanted, offset: int, limit: int
    ) -> Sequence[ReconciledDay]: ...


class QuotaStore(CountingStore, Protocol):
    """Where it is counted how much was used of quotas."""

    async def forget(self, before: Mapping[Period, datetime]) -> None: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def engine_counters(self) -> EngineStore: ...
    @property
    def quotas(self) -> QuotaStore: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class UsageLedger:
    """Keeps what requests used, for so long, and says what they used together."""

    def __init__(self, unit_of_work: UnitOfWork, clock: Clock, kept: timedelta, hints: Hints) -> None:
        self._unit_of_work = unit_of_work
        self._hints = hints
        self._clock = clock
        self._kept = kept

    async def enter(self, told: Sequence[RequestUsage]) -> int:
        """Keeps what is new, once however often it is told; how many that was."""
        async with self._unit_of_work(SYSTEM) as work:
            new = await work.ledger.enter(told)
            counted = await count(work, [consumption_of(each) for each in new if not each.mirrored], self._clock.now())
            await work.commit(*counted.events)
        if counted.spent:
            self._hints.quotas_changed()
        return len(new)

    async def sums(
        self, caller: Caller, wanted: UsageFilter, groups: Sequence[Group], page: PageRequest
    ) -> Page[UsageSum]:
        """What requests used, by what is asked for."""
        offsets = Offsets("sums", wanted, caller.org_id, *(group.value for group in groups))
        async with self._unit_of_work.reading(caller) as work:
            sums = await work.ledger.sums(caller, wanted, groups, offsets.start(page), page.limit + 1)
        return offsets.page(sums, page)

    async def records(self, caller: Caller, wanted: UsageFilter, page: PageRequest) -> Page[RequestUsage]:
        """The requests, newest first."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.ledger.records(caller, wanted, page)

    async def reconciled(self, caller: Caller, wanted: DaysWanted, page: PageRequest) -> Page[ReconciledDay]:
        """The ledger beside what engines counted, by day and deployment."""
        offsets = Offsets("reconciled", wanted, caller.org_id)
        async with self._unit_of_work.reading(caller) as work:
            days = await work.engine_counters.reconciled(caller, wanted, offsets.start(page), page.limit + 1)
        return offsets.page(days, page)

    async def keep_house(self) -> timedelta | None:
        """Removes requests that are older than they are kept."""
        async with self._unit_of_work(SYSTEM) as work:
            gone = await work.ledger.forget(self._clock.now() - self._kept)
            await work.quotas.forget(forgotten(self._clock.now()))
            await work.commit()
        if gone:
            log.info("%d requests are no longer in the ledger; their sums are", gone)
        return SOON if gone else None


def consumption_of(used: RequestUsage) -> Consumption:
    """What a request used, as quotas count it."""
    return Consumption(
        org_id=used.org_id,
        user_id=used.user_id,
        api_key_id=used.api_key_id,
        model=used.route_name or used.model,
        started_at=used.started_at,
        ended_at=used.ended_at,
        tokens=used.input_tokens + used.output_tokens,
        cost=used.cost,
    )
