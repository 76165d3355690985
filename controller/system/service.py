"""The use cases of the platform as a whole."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from controller.system.model import Announced, PlatformHealth, Stats, Vitals, components_of, database_away
from mesh.clock import Clock
from mesh.errors import UnavailableError
from mesh.identity import SYSTEM, Caller, new_id
from mesh.sql.idempotency import RequestIds, digest_of


class SystemStore(Protocol):
    async def vitals(self) -> Vitals: ...
    async def stats(self, caller: Caller) -> Stats: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def system(self) -> SystemStore: ...
    @property
    def requests(self) -> RequestIds: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class System:
    """Looks at the platform and speaks to everyone on it."""

    def __init__(self, unit_of_work: UnitOfWork, clock: Clock, version: str) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._version = version

    async def health(self) -> PlatformHealth:
        """How well each part is. Answers when the database is away too."""
        try:
            async with self._unit_of_work.reading(SYSTEM) as work:
                components = components_of(await work.system.vitals())
        except UnavailableError as error:
            components = database_away(error.message)
        return PlatformHealth(tuple(components), self._version, self._clock.now())

    async def stats(self, caller: Caller) -> Stats:
        """How much there is of everything that the caller sees."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.system.stats(caller)

    async def broadcast(self, caller: Caller, message: str, severity: str, request_id: str) -> None:
        """Tells everyone, once per request id."""
        announcement_id = new_id("ann")
        async with self._unit_of_work(caller) as work:
            asked = digest_of(message, severity)
            booked = await work.requests.claim(caller.org_id, "Broadcast", request_id, asked, announcement_id)
            if booked == announcement_id:
                await work.commit(Announced(announcement_id, message, severity, self._clock.now()))
