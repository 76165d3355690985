"""The use cases of the ledger."""

import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol

from controller.usage.model import Group, RequestUsage, UsageFilter, UsageSum
from mesh.clock import Clock
from mesh.identity import SYSTEM, Caller
from mesh.sql.paging import Offsets, Page, PageRequest

log = logging.getLogger(__name__)
SOON = timedelta(seconds=1)


class Ledger(Protocol):
    """Where requests are kept and added up."""

    async def enter(self, told: Sequence[RequestUsage]) -> int: ...
    async def sums(
        self, caller: Caller, wanted: UsageFilter, groups: Sequence[Group], offset: int, limit: int
    ) -> Sequence[UsageSum]: ...
    async def records(self, caller: Caller, wanted: UsageFilter, page: PageRequest) -> Page[RequestUsage]: ...
    async def forget(self, before: datetime) -> int: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def ledger(self) -> Ledger: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class UsageLedger:
    """Keeps what requests used, for so long, and says what they used together."""

    def __init__(self, unit_of_work: UnitOfWork, clock: Clock, kept: timedelta) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._kept = kept

    async def enter(self, told: Sequence[RequestUsage]) -> int:
        """Keeps what is new, once however often it is told; how many that was."""
        async with self._unit_of_work(SYSTEM) as work:
            new = await work.ledger.enter(told)
            await work.commit()
        return new

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

    async def keep_house(self) -> timedelta | None:
        """Removes requests that are older than they are kept."""
        async with self._unit_of_work(SYSTEM) as work:
            gone = await work.ledger.forget(self._clock.now() - self._kept)
            await work.commit()
        if gone:
            log.info("%d requests are no longer in the ledger; their sums are", gone)
        return SOON if gone else None
