"""What share of requests an engine is fit for, as it says how busy it is."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from controller.deployments.model import Deployment, DeploymentId
from controller.nodes.model import EngineLoad
from controller.routing.model import Provider, Route

# Each change goes to every Envoy: shares move in steps, and not all the time.
STEPS = (10, 7, 5, 3, 2, 1)
WEIGHED_EVERY = timedelta(seconds=5)


class Loads(Protocol):
    """What engines say of themselves."""

    async def engines(self, deployment_ids: Sequence[DeploymentId]) -> Mapping[str, EngineLoad]: ...


def load_weight(load: EngineLoad) -> int:
    """From 10 for an engine that is free down to 1, the fuller its KV cache and the longer its queue."""
    free = (1 - min(max(load.kv_cache_percent, 0.0), 100.0) / 100) / (1 + load.waiting_requests)
    return next((step for step in STEPS if free * 10 >= step), 1)


class LoadWeights:
    """The weights of what routes by load lead to, looked at from time to time."""

    def __init__(self) -> None:
        self._weights: dict[DeploymentId, int] = {}
        self._weighed_at: datetime | None = None

    def of(self, deployment_id: DeploymentId) -> int:
        """The weight; 0 where nobody wants to know, and where the engine does not say."""
        return self._weights.get(deployment_id, 0)

    async def look(
        self, loads: Loads, routes: Iterable[Route], running: Iterable[Deployment], now: datetime
    ) -> set[DeploymentId]:
        """Weighs anew when it is time to; the deployments that have another weight than before."""
        if self._weighed_at is not None and timedelta(0) <= now - self._weighed_at < WEIGHED_EVERY:
            return set()
        self._weighed_at = now
        models = {
            (route.org_id, target.model)
            for route in routes
            if route.wish.balancing.by_load
            for target in route.wish.targets
            if target.provider is Provider.INTERNAL
        }
        ids = [each.deployment_id for each in running if (each.org_id, each.model_name) in models] if models else []
        said = await loads.engines(ids) if ids else {}
        before, self._weights = self._weights, {each: load_weight(said[each]) for each in ids if each in said}
        return {each for each in before.keys() | self._weights.keys() if before.get(each) != self._weights.get(each)}
