"""What is done with flags, and what that needs from storage."""

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from controller.flags.model import Flag, FlagChanged, FlagNotFoundError, Wish
from mesh.identity import Caller, OrgId
from mesh.sql.paging import Page, PageRequest


class FlagStore(Protocol):
    async def find(self, org_id: OrgId, name: str, *, lock: bool = False) -> Flag | None: ...
    async def page(self, org_id: OrgId, page: PageRequest) -> Page[Flag]: ...
    async def save(self, flag: Flag) -> None: ...
    async def delete(self, flag: Flag) -> None: ...


class Clockwork(Protocol):
    async def now(self) -> datetime: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def flags(self) -> FlagStore: ...
    @property
    def nodes(self) -> Clockwork: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Flags:
    """The flags of the caller's own organisation."""

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    async def page(self, caller: Caller, page: PageRequest) -> Page[Flag]:
        """The flags, by name."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.flags.page(caller.org_id, page)

    async def set(self, caller: Caller, wish: Wish) -> Flag:
        """Makes a flag, or replaces all of it."""
        wish.check()
        async with self._unit_of_work(caller) as work:
            before = await work.flags.find(caller.org_id, wish.name, lock=True)
            now = await work.nodes.now()
            after = (
                before.change(wish, caller.user_id, now) if before else Flag(caller.org_id, caller.user_id, now, wish)
            )
            if after != before:
                await work.flags.save(after)
                await work.commit(FlagChanged(after, now))
        return after

    async def delete(self, caller: Caller, name: str) -> Flag:
        """Takes a flag away; whoever asks for it gets their own default. FlagNotFoundError."""
        async with self._unit_of_work(caller) as work:
            gone = await work.flags.find(caller.org_id, name, lock=True)
            if gone is None:
                raise FlagNotFoundError(name)
            await work.flags.delete(gone)
            await work.commit(FlagChanged(gone, await work.nodes.now(), is_deleted=True))
        return gone
