"""The fleet in memory: every node with its claims, brought up to date from the rows that changed meanwhile."""

import asyncio
import gc
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Protocol

from controller.deployments.holding import Holding
from controller.deployments.model import DeploymentId
from controller.nodes.model import Node, NodeId
from controller.placement.fleet import Fleet
from controller.placement.model import Candidate, Claim
from mesh.identity import SYSTEM, Caller
from mesh.sharing import SharedReads
from mesh.sql.snapshot import Bookmark, Snapshot

# Between plans the view is kept near the present, so that the next plan has little to catch up with.
KEEP_UP = timedelta(milliseconds=500)
# Taking in many rows pauses so often for everyone else.
_AT_ONCE = 50


class Nodes(Protocol):
    """The nodes to deploy on."""

    async def snapshot(self) -> Snapshot: ...
    async def changed(self, since: Snapshot | None) -> Sequence[Node]: ...


class Holdings(Protocol):
    """What deployments hold."""

    async def holdings_changed(self, since: Snapshot | None) -> Sequence[Holding]: ...


class Cached(Protocol):
    """The models whose files a node has, by digest."""

    @property
    def node_id(self) -> NodeId: ...
    @property
    def digests(self) -> tuple[str, ...]: ...


class Caches(Protocol):
    """What files nodes have."""

    async def cached_changed(self, since: Snapshot | None) -> Sequence[Cached]: ...


class Work(Protocol):
    """One connection that reads, with the stores on it."""

    @property
    def nodes(self) -> Nodes: ...
    @property
    def deployments(self) -> Holdings: ...
    @property
    def peers(self) -> Caches: ...


class UnitOfWork(Protocol):
    """Opens connections that read."""

    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class FleetView:
    """One process's picture of the fleet. It may lag behind; what is claimed is checked again under the node's lock."""

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work
        self._fleet = Fleet()
        self._nodes: dict[NodeId, Node] = {}
        self._held: defaultdict[NodeId, dict[DeploymentId, Holding]] = defaultdict(dict)
        self._places: dict[DeploymentId, NodeId] = {}
        self._bookmark = Bookmark()
        self._reads = SharedReads[None]()

    async def present(self) -> Fleet:
        """The fleet with every change that was committed before this call. Use it before the next await."""
        await self._reads.get("fleet", self._catch_up)
        return self._fleet

    async def keep_up(self) -> None:
        """Takes in what changed; a step to repeat."""
        await self.present()

    async def _catch_up(self) -> None:
        async with self._unit_of_work.reading(SYSTEM) as work:
            # The snapshot first: what commits after it is read again the next time.
            seen = await work.nodes.snapshot()
            since = self._bookmark.since(seen)
            nodes = await work.nodes.changed(since)
            held = await work.deployments.holdings_changed(since)
            caches = await work.peers.cached_changed(since)
        if since is None:
            self._forget()
        for cached in caches:
            self._fleet.cache(cached.node_id, cached.digests)
        changed = self._take(nodes, held)
        for number, node_id in enumerate(changed, 1):
            self._put(node_id)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        if not self._bookmark.begun:
            # A fleet in memory is many small objects, and the collector need not look through them for each plan.
            # Once only: what ends later must still be found.
            gc.freeze()
        self._bookmark.move(seen, since)

    def _forget(self) -> None:
        for node_id in self._nodes:
            self._fleet.remove(node_id)
        self._nodes.clear()
        self._held.clear()
        self._places.clear()

    def _take(self, nodes: Iterable[Node], held: Iterable[Holding]) -> set[NodeId]:
        changed = set[NodeId]()
        for node in nodes:
            self._nodes[node.node_id] = node
            changed.add(node.node_id)
        for holding in held:
            before = self._places.pop(holding.deployment_id, None)
            if before is not None:
                del self._held[before][holding.deployment_id]
                changed.add(before)
            if holding.active:
                self._held[holding.node_id][holding.deployment_id] = holding
                self._places[holding.deployment_id] = holding.node_id
                changed.add(holding.node_id)
        return changed

    def _put(self, node_id: NodeId) -> None:
        node = self._nodes.get(node_id)
        if node is None:
            return
        if node.deleted_at is not None:
            self._fleet.remove(node_id)
            del self._nodes[node_id]
            return
        self._fleet.put(candidate_of(node, self._held[node_id].values()))


def candidate_of(node: Node, held: Iterable[Holding]) -> Candidate:
    """The node with what its deployments hold."""
    claims = sorted((_claim_of(each, node) for each in held), key=lambda claim: claim.deployment_id)
    return Candidate(node, tuple(claims))


def _claim_of(holding: Holding, node: Node) -> Claim:
    return Claim(
        deployment_id=holding.deployment_id,
        model_id=holding.model_id,
        memory_mb=holding.memory_limit_mb,
        gpu_devices=holding.gpu_devices,
        port=holding.port,
        settled_mb=_settled_mb(holding, node),
        priority=holding.priority,
    )


def _settled_mb(holding: Holding, node: Node) -> int:
    """How much of a claim the node's latest reading shows: nothing when the engine did not run yet when it was taken.

    An engine on a GPU takes its whole share at its start; one in RAM grows, and what it has is known.
    """
    since, heard = holding.running_since, node.last_heartbeat
    if since is None or heard is None or since >= heard:
        return 0
    return holding.memory_limit_mb if holding.gpu_devices else min(holding.memory_limit_mb, holding.memory_mb)
