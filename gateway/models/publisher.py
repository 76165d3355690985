"""Turns each routing table into resources, and takes away what nobody is led to any more."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from google.protobuf.message import Message

from gateway.edge.listener import NAME
from gateway.models.clusters import has_endpoints_apart, model_cluster, model_endpoints
from gateway.models.routes import RouteTable
from gateway.models.table import ModelRoute
from gateway.xds.cache import CLUSTERS, ENDPOINTS, ROUTES, Cache, Resource, resource
from mesh.clock import Clock


class Publisher:
    """Keeps the cache's model resources in step with the routing table.

    The cluster of a model that is gone stays for `linger`, so that requests on their way are answered.
    """

    def __init__(self, cache: Cache, routes: RouteTable, clock: Clock, linger: timedelta) -> None:
        self._cache = cache
        self._routes = routes
        self._clock = clock
        self._linger = linger
        self._models: dict[str, ModelRoute] = {}
        self._leaving: dict[str, float] = {}

    def guess(self) -> None:
        """Publishes the API's routes alone, for Envoys that have nothing yet; whoever has models keeps them."""
        self._cache.put(ROUTES, {NAME: resource(self._routes.render(()), provisional=True)})

    def publish(self, table: Sequence[ModelRoute]) -> None:
        """Publishes a whole table."""
        over_grpc = (model.over_grpc for model in table)
        models = {model.cluster: model for model in (*table, *over_grpc) if model is not None}
        changed = {name: model for name, model in models.items() if self._models.get(name) != model}
        apart = {name: model for name, model in changed.items() if has_endpoints_apart(model)}
        self._cache.put(CLUSTERS, _rendered({name: model_cluster(model) for name, model in changed.items()}))
        self._cache.drop(ENDPOINTS, changed.keys() - apart.keys())
        self._cache.put(ENDPOINTS, _rendered({name: model_endpoints(model) for name, model in apart.items()}))
        self._cache.put(ROUTES, {NAME: resource(self._routes.render(table))})
        self._cache.mark_complete(CLUSTERS, ENDPOINTS, ROUTES)
        self._leave(models)
        self._models = models

    def sweep(self) -> timedelta | None:
        """Drops the clusters whose time is over; answers how long until the next one's is, None when there is none."""
        now = self._clock.monotonic()
        over = {name for name, deadline in self._leaving.items() if deadline <= now}
        if over:
            self._cache.drop(CLUSTERS, over)
            self._cache.drop(ENDPOINTS, over)
            for name in over:
                del self._leaving[name]
        return timedelta(seconds=min(self._leaving.values()) - now) if self._leaving else None

    def _leave(self, models: Mapping[str, ModelRoute]) -> None:
        deadline = self._clock.monotonic() + self._linger.total_seconds()
        for name in self._models.keys() - models.keys():
            self._leaving[name] = deadline
        for name in self._leaving.keys() & models.keys():
            del self._leaving[name]


def _rendered(messages: Mapping[str, Message]) -> dict[str, Resource]:
    return {name: resource(built) for name, built in messages.items()}
