"""Where requests may go, as a feed: the routes, and the instances that may receive traffic."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from controller.deployments.model import Replica
from controller.hints import Hints
from controller.routing.model import Route
from controller.routing.service import UnitOfWork
from mesh.identity import SYSTEM

# A hint comes from this process only; other controllers' changes are found by looking.
POLL = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """All instances that may receive traffic and all routes, of every organisation."""

    replicas: tuple[Replica, ...]
    routes: tuple[Route, ...]


class RoutingFeed:
    """What the inference router follows."""

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints) -> None:
        self._unit_of_work = unit_of_work
        self._hints = hints

    async def watch(self) -> AsyncIterator[Whereabouts]:
        """Everything, then everything again whenever it changes."""
        seen: Whereabouts | None = None
        with self._hints.watching_routes() as wake:
            while True:
                now = await self._look()
                if now != seen:
                    seen = now
                    yield now
                await wake.wait(POLL)

    async def _look(self) -> Whereabouts:
        async with self._unit_of_work.reading(SYSTEM) as work:
            return Whereabouts(await work.deployments.replicas(), await work.routes.all())
