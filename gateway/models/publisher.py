"""Turns each routing table into resources, and takes away what nobody is led to any more."""

from collections.abc import Mapping, Sequence, Set
from datetime import timedelta

from google.protobuf.message import Message

from gateway.edge.listener import NAME
from gateway.models.clusters import has_endpoints_apart, model_cluster, model_endpoints
from gateway.models.memo import Memo
from gateway.models.routes import RouteTable
from gateway.models.table import ModelRoute
from gateway.policies.clusters import MIRRORS, RELAY, Cluster, clusters
from gateway.policies.mirrors import copies
from gateway.policies.relay import InsideTable, relays
from gateway.policies.table import PolicyRoute
from gateway.xds.cache import CLUSTERS, ENDPOINTS, ROUTES, Cache, Resource, resource
from mesh.clock import Clock


class Publisher:
    """Keeps the cache's model resources in step with the routing table.

    The cluster of a model that is gone stays for `linger`, so that requests on their way are answered.
    """

    def __init__(self, cache: Cache, routes: RouteTable, clock: Clock, linger: timedelta) -> None:
        self._cache = cache
        self._routes = routes
        self._inside = {RELAY: InsideTable(RELAY, relays), MIRRORS: InsideTable(MIRRORS, copies)}
        self._clusters = Memo(clusters)
        self._over_grpc = Memo[ModelRoute, ModelRoute | None](lambda model: model.over_grpc)
        self._clock = clock
        self._linger = linger
        self._models: dict[str, ModelRoute] = {}
        self._joined: dict[str, Cluster] = {}
        self._leaving: dict[str, float] = {}

    def guess(self) -> None:
        """Publishes the API's routes alone, for Envoys that have nothing yet; whoever has models keeps them."""
        inside = {name: table.render(()) for name, table in self._inside.items()}
        guesses = {NAME: self._routes.render(()), **inside}
        self._cache.put(ROUTES, {name: resource(guess, provisional=True) for name, guess in guesses.items()})

    def publish(self, table: Sequence[ModelRoute], policies: Sequence[PolicyRoute] = ()) -> None:
        """Publishes a whole table."""
        over_grpc = (found for _, found in self._over_grpc.all(table))
        models = {model.cluster: model for model in (*table, *over_grpc) if model is not None}
        changed = {name: model for name, model in models.items() if self._models.get(name) != model}
        apart = {name: model for name, model in changed.items() if has_endpoints_apart(model)}
        self._cache.put(CLUSTERS, _rendered({name: model_cluster(model) for name, model in changed.items()}))
        self._cache.drop(ENDPOINTS, changed.keys() - apart.keys())
        self._cache.put(ENDPOINTS, _rendered({name: model_endpoints(model) for name, model in apart.items()}))
        joined = self._join(policies)
        inside = {name: found.render(policies) for name, found in self._inside.items()}
        routes = {NAME: self._routes.render(table, policies), **inside}
        self._cache.put(ROUTES, _rendered(routes))
        self._cache.mark_complete(CLUSTERS, ENDPOINTS, ROUTES)
        self._leave(self._models.keys() | self._joined.keys(), models.keys() | joined.keys())
        self._models, self._joined = models, joined

    def _join(self, policies: Sequence[PolicyRoute]) -> dict[str, Cluster]:
        """Publishes the clusters of policies."""
        joined = {name: cluster for _, found in self._clusters.all(policies) for name, cluster in found.items()}
        changed = {name: cluster for name, cluster in joined.items() if self._joined.get(name) != cluster}
        found = {name: cluster.endpoints() for name, cluster in changed.items()}
        apart = {name: endpoints for name, endpoints in found.items() if endpoints is not None}
        self._cache.put(CLUSTERS, _rendered({name: cluster.render() for name, cluster in changed.items()}))
        self._cache.drop(ENDPOINTS, changed.keys() - apart.keys())
        self._cache.put(ENDPOINTS, _rendered(apart))
        return joined

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

    def _leave(self, before: Set[str], now: Set[str]) -> None:
        deadline = self._clock.monotonic() + self._linger.total_seconds()
        for name in before - now:
            self._leaving[name] = deadline
        for name in self._leaving.keys() & now:
            del self._leaving[name]


def _rendered(messages: Mapping[str, Message]) -> dict[str, Resource]:
    return {name: resource(built) for name, built in messages.items()}
