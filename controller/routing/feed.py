"""Where requests may go, as a feed: the routes, and the instances that may receive traffic."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta

from controller.deployments.model import DeploymentId
from controller.deployments.serving import Replica
from controller.deployments.sleepy import SleepyModel
from controller.hints import Hints
from controller.quotas.model import Quota
from controller.routing.model import Route, RouteId
from controller.routing.whereabouts import Whereabouts, WhereaboutsView

# A hint comes from this process only; other controllers' changes are found by looking.
POLL = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Change:
    """What is different from the time before: all instances of deployments, and routes; and which have none any more.

    The first one is everything.
    """

    replicas: tuple[Replica, ...]
    routes: tuple[Route, ...]
    gone: tuple[DeploymentId, ...] = ()
    gone_routes: tuple[RouteId, ...] = ()
    # Every quota, where one is different.
    quotas: tuple[Quota, ...] | None = None
    whole: bool = False
    # All models that may be without an instance, and whether that is different.
    sleepy: tuple[SleepyModel, ...] = ()
    otherwise_sleepy: bool = False

    @property
    def empty(self) -> bool:
        """Whether nothing is different."""
        routed = self.replicas or self.routes or self.gone or self.gone_routes
        return not (routed or self.whole or self.otherwise_sleepy or self.quotas is not None)


class RoutingFeed:
    """What inference routers follow."""

    def __init__(self, view: WhereaboutsView, hints: Hints) -> None:
        self._view = view
        self._hints = hints

    async def watch(self) -> AsyncGenerator[Change, None]:
        """Everything, then what is different whenever something is."""
        with self._hints.watching_routes() as wake:
            seen = await self._view.present()
            yield whole(seen)
            while True:
                await wake.wait(POLL)
                now = await self._view.present()
                change = difference(seen, now)
                seen = now
                if not change.empty:
                    yield change

    async def watch_whole(self) -> AsyncGenerator[Change, None]:
        """Everything, then everything again whenever something is different; for routers that know no changes."""
        async with aclosing(self.watch()) as changes:
            async for _ in changes:
                yield whole(await self._view.present())


def whole(now: Whereabouts) -> Change:
    """Everything."""
    replicas = tuple(each for deployment_id in sorted(now.replicas) for each in now.replicas[deployment_id])
    routes, quotas = tuple(now.routes[each] for each in sorted(now.routes)), tuple(now.quotas.values())
    return Change(replicas, routes, quotas=quotas, whole=True, sleepy=now.sleepy)


def difference(before: Whereabouts, now: Whereabouts) -> Change:
    """What has to be said of `now` to one who knows `before`."""
    changed = (found for each, found in now.replicas.items() if before.replicas.get(each) != found)
    return Change(
        replicas=tuple(each for found in changed for each in found),
        routes=tuple(route for each, route in now.routes.items() if before.routes.get(each) != route),
        gone=tuple(sorted(before.replicas.keys() - now.replicas.keys())),
        gone_routes=tuple(sorted(before.routes.keys() - now.routes.keys())),
        sleepy=now.sleepy,
        otherwise_sleepy=now.sleepy != before.sleepy,
        quotas=None if before.quotas == now.quotas else tuple(now.quotas.values()),
    )
