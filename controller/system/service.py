"""What the platform says of itself, and what that needs from storage."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from controller.system.model import Announced, ComponentHealth, Health, Stats, Vitals, judge, without_database
from mesh.clock import Clock
from mesh.errors import UnavailableError
from mesh.identity import SYSTEM, Caller, new_id
from mesh.sharing import SharedReads
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
    """The platform as a whole."""

    def __init__(self, unit_of_work: UnitOfWork, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._reads = SharedReads[Health]()

    async def health(self) -> Health:
        """Whether it works, seen after the call. Answers also when the database does not.

        Health is open to everybody: however many ask, the database is asked by one of them at a time.
        """
        return await self._reads.get("health", self._look)

    async def stats(self, caller: Caller) -> Stats:
        """How much of everything the caller sees."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.system.stats(caller)

    async def broadcast(self, caller: Caller, message: str, severity: str, request_id: str) -> None:
        """Tells every user something, once for a request id."""
        announcement_id = new_id("announcement")
        asked = digest_of(message, severity)
        async with self._unit_of_work(caller) as work:
            booked = await work.requests.claim(caller.org_id, "Broadcast", request_id, asked, announcement_id)
            if booked == announcement_id:
                await work.commit(Announced(message, severity, self._clock.now()))

    async def _look(self) -> Health:
        return Health(await self._parts(), self._clock.now())

    async def _parts(self) -> tuple[ComponentHealth, ...]:
        try:
            async with self._unit_of_work.reading(SYSTEM) as work:
                return judge(await work.system.vitals())
        except UnavailableError as error:
            return without_database(error.message)
