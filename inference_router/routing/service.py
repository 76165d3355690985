"""Keeps the routing table and tells whoever watches it."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from inference_router.routing.model import Replica, SleepyModel
from inference_router.routing.policy import PolicyRoute
from inference_router.routing.quotas import QuotaRule
from inference_router.routing.table import Compiler, RoutingTable

log = logging.getLogger(__name__)


class TableStore(Protocol):
    """Where the last table outlives the process."""

    def load(self) -> RoutingTable | None:
        """The table that was saved last, when there is one."""
        ...

    def save(self, table: RoutingTable) -> None:
        """Keeps a table."""
        ...


class Routing:
    """The newest table. Before there is any, from the controller or from the store, watchers wait."""

    def __init__(self, store: TableStore) -> None:
        self._store = store
        self._changed = asyncio.Event()
        self._flaws: frozenset[tuple[str, str]] = frozenset()
        self._compiler = Compiler()
        self.table: RoutingTable | None = None
        self.watchers = 0

    async def restore(self) -> None:
        """Takes up the table of the last run."""
        self.table = await asyncio.to_thread(self._store.load)
        if self.table is not None:
            log.info("serving the last routing table, version %d", self.table.version)

    async def follow(
        self,
        replicas: Sequence[Replica],
        wanted: Sequence[PolicyRoute] = (),
        sleepy: Sequence[SleepyModel] = (),
        quotas: Sequence[QuotaRule] = (),
    ) -> None:
        """Makes the table match these instances, routes and quotas; tells the watchers first, then the store."""
        version = self.table.version + 1 if self.table is not None else 1
        table = self._compiler.compile(version, replicas, wanted, sleepy, self.table, quotas)
        flaws = {(f"deployment {each.deployment_id}", flaw) for each in replicas if (flaw := each.flaw())}
        flaws |= {(f"a quota of organisation {each.org_id}", flaw) for each in quotas if (flaw := each.flaw())}
        self._report(flaws | {(f"route {route_id}", flaw) for route_id, flaw in self._compiler.flaws.items()})
        if self.table is not None and self.table.content == table.content:
            return
        self.table = table
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        await self._keep(self.table)

    async def watch(self) -> AsyncGenerator[RoutingTable, None]:
        """The table at once, then again whenever it changes; a slow watcher gets only the newest."""
        self.watchers += 1
        try:
            while True:
                changed = self._changed
                if self.table is not None:
                    yield self.table
                await changed.wait()
        finally:
            self.watchers -= 1

    async def _keep(self, table: RoutingTable) -> None:
        try:
            await asyncio.to_thread(self._store.save, table)
        except OSError as error:
            log.warning("the routing table could not be saved, a restart would not know it: %s", error)

    def _report(self, flaws: set[tuple[str, str]]) -> None:
        for subject, flaw in flaws - self._flaws:
            log.warning("%s is not taken into the routing table: %s", subject, flaw)
        self._flaws = frozenset(flaws)
