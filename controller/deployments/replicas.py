"""The instances that may receive traffic, as a feed."""

from collections.abc import AsyncIterator
from datetime import timedelta

from controller.deployments.model import Replica
from controller.deployments.stores import UnitOfWork
from controller.hints import Hints
from mesh.identity import SYSTEM

# A hint comes from this process only; other controllers' changes are found by looking.
POLL = timedelta(seconds=1)


class Replicas:
    """Instances that run on nodes that are there. Whether a node is there is decided with its lease, in one place."""

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints) -> None:
        self._unit_of_work = unit_of_work
        self._hints = hints

    async def live(self) -> tuple[Replica, ...]:
        """All of them."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            return await work.deployments.replicas()

    async def watch(self) -> AsyncIterator[tuple[Replica, ...]]:
        """All of them, then all of them again whenever they change."""
        seen: tuple[Replica, ...] | None = None
        with self._hints.watching_replicas() as wake:
            while True:
                replicas = await self.live()
                if replicas != seen:
                    seen = replicas
                    yield replicas
                await wake.wait(POLL)
