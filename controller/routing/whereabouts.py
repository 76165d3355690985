"""Where requests may go, kept in memory and brought up to date from the rows that changed meanwhile."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

from controller.deployments.model import Deployment, DeploymentId, DeploymentStatus
from controller.deployments.serving import Replica, replicas_of
from controller.deployments.sleepy import SleepyModel
from controller.nodes.model import NodeId
from controller.nodes.reached import Reached
from controller.quotas.model import Quota, QuotaId
from controller.routing.load_weights import Loads, LoadWeights
from controller.routing.model import Route, RouteId
from mesh.identity import SYSTEM, Caller
from mesh.sharing import SharedReads
from mesh.sql.snapshot import Bookmark, Snapshot


class Nodes(Protocol):
    """The nodes that deployments run on."""

    async def snapshot(self) -> Snapshot: ...
    async def reached_changed(self, since: Snapshot | None) -> Sequence[Reached]: ...


class Deployments(Protocol):
    """What runs."""

    async def running_changed(self, since: Snapshot | None) -> Sequence[Deployment]: ...


class Routes(Protocol):
    """What clients may call."""

    async def changed(self, since: Snapshot | None) -> Sequence[Route]: ...


class Sets(Protocol):
    """The replica sets whose number of replicas follows the load, and their models that may sleep."""

    async def autoscaled(self) -> Sequence[str]: ...
    async def sleepy(self) -> tuple[SleepyModel, ...]: ...
    async def standby(self) -> Sequence[DeploymentId]: ...


class Quotas(Protocol):
    """How much may be used."""

    async def changed(self, since: Snapshot | None) -> Sequence[Quota]: ...


class Work(Protocol):
    """One connection that reads, with the stores on it."""

    @property
    def nodes(self) -> Nodes: ...
    @property
    def deployments(self) -> Deployments: ...
    @property
    def routes(self) -> Routes: ...
    @property
    def replica_sets(self) -> Sets: ...
    @property
    def quotas(self) -> Quotas: ...
    @property
    def loads(self) -> Loads: ...


class UnitOfWork(Protocol):
    """Opens connections that read."""

    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """All instances that may receive traffic, by deployment, all routes and all quotas, of every organisation."""

    replicas: Mapping[DeploymentId, tuple[Replica, ...]] = field(default_factory=dict)
    routes: Mapping[RouteId, Route] = field(default_factory=dict)
    # Models that may be without an instance, whether they are or not.
    sleepy: tuple[SleepyModel, ...] = ()
    quotas: Mapping[QuotaId, Quota] = field(default_factory=dict)


class WhereaboutsView:
    """One process's picture, shared by all that follow it. What it answered once is never changed."""

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work
        self._now = Whereabouts()
        self._nodes: dict[NodeId, Reached] = {}
        self._running: dict[DeploymentId, Deployment] = {}
        self._on_node: defaultdict[NodeId, set[DeploymentId]] = defaultdict(set)
        self._scaled = frozenset[str]()
        # What is kept warm and gets no requests.
        self._standby = frozenset[DeploymentId]()
        self._weights = LoadWeights()
        self._bookmark = Bookmark()
        self._reads = SharedReads[None]()

    async def present(self) -> Whereabouts:
        """The picture with every change that was committed before this call."""
        await self._reads.get("whereabouts", self._catch_up)
        return self._now

    async def _catch_up(self) -> None:
        async with self._unit_of_work.reading(SYSTEM) as work:
            # The snapshot first: what commits after it is read again the next time.
            seen = await work.nodes.snapshot()
            since = self._bookmark.since(seen)
            nodes = await work.nodes.reached_changed(since)
            running = await work.deployments.running_changed(since)
            routes = await work.routes.changed(since)
            scaled, sleepy = frozenset(await work.replica_sets.autoscaled()), await work.replica_sets.sleepy()
            standby = frozenset(await work.replica_sets.standby())
            quotas = await work.quotas.changed(since)
            weighed = await self._weights.look(work.loads, self._now.routes.values(), self._running.values(), seen.at)
        if since is None:
            self._forget()
        changed = self._take_nodes(nodes) | self._take_running(running) | self._take_sets(scaled, standby)
        changed |= weighed
        if since is None:
            self._now = Whereabouts(self._answering(self._running), _with({}, routes), sleepy, _with_quotas({}, quotas))
        elif changed or routes or quotas or sleepy != self._now.sleepy:
            kept = {each: found for each, found in self._now.replicas.items() if each not in changed}
            replicas = {**kept, **self._answering(changed)} if changed else self._now.replicas
            known = _with(self._now.routes, routes) if routes else self._now.routes
            limits = _with_quotas(self._now.quotas, quotas) if quotas else self._now.quotas
            self._now = Whereabouts(replicas, known, sleepy, limits)
        self._bookmark.move(seen, since)

    def _forget(self) -> None:
        self._nodes.clear()
        self._running.clear()
        self._on_node.clear()

    def _take_nodes(self, nodes: Sequence[Reached]) -> set[DeploymentId]:
        """The deployments on nodes that are reached otherwise than before."""
        changed = set[DeploymentId]()
        for node in nodes:
            if self._nodes.get(node.node_id) != node:
                self._nodes[node.node_id] = node
                changed |= self._on_node.get(node.node_id, set())
        return changed

    def _take_running(self, deployments: Sequence[Deployment]) -> set[DeploymentId]:
        for deployment in deployments:
            before = self._running.pop(deployment.deployment_id, None)
            if before is not None:
                self._on_node[before.node_id].discard(before.deployment_id)
            if deployment.status is DeploymentStatus.RUNNING:
                self._running[deployment.deployment_id] = deployment
                self._on_node[deployment.node_id].add(deployment.deployment_id)
        return {each.deployment_id for each in deployments}

    def _take_sets(self, scaled: frozenset[str], standby: frozenset[DeploymentId]) -> set[DeploymentId]:
        """The deployments of sets that began or ceased to follow the load, or to get requests."""
        others, self._scaled = self._scaled ^ scaled, scaled
        called, self._standby = self._standby ^ standby, standby
        return {*called, *(each.deployment_id for each in self._running.values() if each.replica_set_id in others)}

    def _answering(
        self, deployment_ids: "set[DeploymentId] | Mapping[DeploymentId, object]"
    ) -> dict[DeploymentId, tuple[Replica, ...]]:
        found = {}
        for deployment_id in deployment_ids:
            deployment = self._running.get(deployment_id)
            node = self._nodes.get(deployment.node_id) if deployment else None
            called = deployment_id not in self._standby
            if called and deployment is not None and node is not None and node.live:
                replicas = replicas_of(deployment, node.address, node.tunnel)
                found[deployment_id] = tuple(map(self._of_interest, replicas))
        return found

    def _of_interest(self, replica: Replica) -> Replica:
        """Loads are counted for sets whose number of replicas follows them, and weights where a route wants them."""
        set_id = replica.replica_set_id if replica.replica_set_id in self._scaled else ""
        return replace(replica, replica_set_id=set_id, load_weight=self._weights.of(replica.deployment_id))


def _with(known: Mapping[RouteId, Route], changed: Sequence[Route]) -> dict[RouteId, Route]:
    after = {**known, **{each.route_id: each for each in changed}}
    return {route_id: route for route_id, route in after.items() if route.deleted_at is None}


def _with_quotas(known: Mapping[QuotaId, Quota], changed: Sequence[Quota]) -> dict[QuotaId, Quota]:
    after = {**known, **{each.quota_id: each for each in changed}}
    return {quota_id: quota for quota_id, quota in after.items() if quota.deleted_at is None}
