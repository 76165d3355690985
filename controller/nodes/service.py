"""What the area needs from storage, and the use cases of those who run the fleet."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from controller.hints import Hints
from controller.nodes.counters import CounterStore
from controller.nodes.drain import Leaving
from controller.nodes.events import NodeMaintenanceChanged, NodeRegistered, NodeRemoved
from controller.nodes.model import (
    Container,
    FleetGuard,
    Invitation,
    LogPage,
    Node,
    NodeChanges,
    NodeConfig,
    NodeId,
    NodeInUseError,
    NodeRole,
    NodeStatus,
    check_host,
)
from controller.nodes.standing import StandingStore
from mesh.identity import Caller, new_id
from mesh.sql.idempotency import RequestIds, digest_of
from mesh.sql.paging import Page, PageRequest


class NodeStore(Protocol):
    async def now(self) -> datetime: ...
    async def get(self, node_id: NodeId, caller: Caller, *, lock: bool = False) -> Node: ...
    async def page(self, caller: Caller, page: PageRequest, status: NodeStatus | None) -> Page[Node]: ...
    async def add(self, node: Node) -> None: ...
    async def save(self, node: Node) -> None: ...
    async def lost(self, now: datetime) -> tuple[Node, ...]: ...
    async def count_leased(self, ending_before: datetime) -> tuple[int, int]: ...
    async def guard(self, guard: FleetGuard | None) -> bool: ...
    async def containers(self, node_id: NodeId, page: PageRequest) -> Page[Container]: ...


class JoinTokenStore(Protocol):
    async def replace(self, node: Node, token_hash: str, expires_at: datetime) -> None: ...
    async def redeem(self, token_hash: str, key: str, now: datetime) -> NodeId | None: ...
    async def forget(self, node_id: NodeId) -> None: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def nodes(self) -> NodeStore: ...
    @property
    def standings(self) -> StandingStore: ...
    @property
    def engine_counters(self) -> CounterStore: ...
    @property
    def join_tokens(self) -> JoinTokenStore: ...
    @property
    def requests(self) -> RequestIds: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Occupants(Protocol):
    """What runs on nodes, as far as this area needs to know."""

    async def count_on(self, caller: Caller, node_id: NodeId) -> int:
        """How many deployments are to run on the node."""
        ...

    async def left_on(self, caller: Caller, node_id: NodeId) -> tuple[Leaving, ...]:
        """What deploys, runs or ends on the node."""
        ...

    async def end_on(self, caller: Caller, node_id: NodeId) -> None:
        """Stops every deployment on the node, in a transaction of its own."""
        ...


class NodeLogs(Protocol):
    """Reads logs where they are: the open sessions of nodes."""

    async def request_logs(self, node_id: NodeId, workload_id: str, offset: int, limit: int) -> LogPage:
        """At most `limit` bytes from `offset`; a negative offset reads the last so many lines.

        NodeUnreachableError when the node has no session here or does not answer in time.
        """
        ...


class Inviter(Protocol):
    """Makes the tokens that agents join with."""

    @property
    def join_url(self) -> str:
        """Where agents join."""
        ...

    async def invite(self, work: Work, node: Node, now: datetime) -> Invitation:
        """A new token for the node, as part of `work`; the node's earlier tokens end."""
        ...


@dataclass(frozen=True, slots=True)
class Registration:
    """What an operator says of a new node."""

    name: str
    role: tuple[NodeRole, ...]
    is_local: bool
    vpn_ip: str
    config: NodeConfig
    labels: Mapping[str, str]


class Nodes:
    """The machines of the fleet, for those who look after them."""

    def __init__(self, unit_of_work: UnitOfWork, enrolment: Inviter, occupants: Occupants, hints: Hints) -> None:
        self._unit_of_work = unit_of_work
        self._enrolment = enrolment
        self._occupants = occupants
        self._hints = hints

    async def get(self, caller: Caller, node_id: NodeId) -> Node:
        """One node; NodeNotFoundError also for one of another organisation."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.nodes.get(node_id, caller)

    async def page(self, caller: Caller, page: PageRequest, status: NodeStatus | None) -> Page[Node]:
        """The nodes that the caller sees, newest first."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.nodes.page(caller, page, status)

    async def containers(self, caller: Caller, node_id: NodeId, page: PageRequest) -> Page[Container]:
        """What runs on the node, as its agent last said."""
        async with self._unit_of_work.reading(caller) as work:
            node = await work.nodes.get(node_id, caller)
            return await work.nodes.containers(node.node_id, page)

    async def register(self, caller: Caller, registration: Registration, request_id: str) -> tuple[Node, Invitation]:
        """A new node of the caller's organisation and what its agent joins with.

        The same `request_id` again answers the same node with a fresh token.
        """
        check_host("vpn_ip", registration.vpn_ip)
        async with self._unit_of_work(caller) as work:
            now = await work.nodes.now()
            node = self._registered(caller, registration, now)
            claimed = await work.requests.claim(
                caller.org_id, "RegisterNode", request_id, digest_of(registration), node.node_id
            )
            if claimed == node.node_id:
                await work.nodes.add(node)
                events = [NodeRegistered(node, now)]
            else:
                node, events = await work.nodes.get(NodeId(claimed), caller), []
            invitation = await self._enrolment.invite(work, node, now)
            await work.commit(*events)
            return node, invitation

    async def create_join_token(self, caller: Caller, node_id: NodeId) -> Invitation:
        """A new token for the node; its earlier ones end."""
        async with self._unit_of_work(caller) as work:
            node = await work.nodes.get(node_id, caller, lock=True)
            invitation = await self._enrolment.invite(work, node, await work.nodes.now())
            await work.commit()
            return invitation

    async def update(self, caller: Caller, node_id: NodeId, changes: NodeChanges) -> Node:
        """The node after the changes."""
        async with self._unit_of_work(caller) as work:
            before = await work.nodes.get(node_id, caller, lock=True)
            after = changes.apply(before, await work.nodes.now())
            if after is not before:
                await work.nodes.save(after)
                await work.commit()
        if after.address != before.address:
            self._hints.replicas_changed()
        return after

    async def delete(self, caller: Caller, node_id: NodeId, *, force: bool) -> None:
        """Removes the node and ends its session. NodeInUseError while deployments are on it, unless `force`."""
        await self.get(caller, node_id)
        if force:
            await self._occupants.end_on(caller, node_id)
        async with self._unit_of_work(caller) as work:
            node = await work.nodes.get(node_id, caller, lock=True)
            # A new deployment needs the row that is locked here, so the count cannot grow behind our back.
            deployments = 0 if force else await self._occupants.count_on(caller, node_id)
            if deployments:
                raise NodeInUseError(node_id, deployments)
            now = await work.nodes.now()
            await work.nodes.save(node.remove(now))
            await work.join_tokens.forget(node_id)
            await work.commit(NodeRemoved(node_id, node.org_id, caller.user_id, now))
        self._hints.node_changed(node_id)
        self._hints.replicas_changed()

    async def enter_maintenance(self, caller: Caller, node_id: NodeId) -> Node:
        """Takes the node out of placement."""
        return await self._change(caller, node_id, lambda before, now: before.enter_maintenance(now))

    async def drain(self, caller: Caller, node_id: NodeId) -> tuple[Node, tuple[Leaving, ...]]:
        """Takes the node out of placement and moves what runs there, replacements first; again to see how far it is.

        NodeOfflineError when the node is not there: what was on it moves by itself.
        """
        node = await self._change(caller, node_id, lambda before, now: before.drain(now))
        self._hints.fleet_changed()
        return node, await self._occupants.left_on(caller, node_id)

    async def exit_maintenance(self, caller: Caller, node_id: NodeId) -> Node:
        """Puts the node back into placement."""
        node = await self._change(caller, node_id, lambda before, now: before.exit_maintenance(now))
        self._hints.fleet_changed()
        return node

    async def _change(self, caller: Caller, node_id: NodeId, change: Callable[[Node, datetime], Node]) -> Node:
        async with self._unit_of_work(caller) as work:
            before = await work.nodes.get(node_id, caller, lock=True)
            now = await work.nodes.now()
            after = change(before, now)
            if after != before:
                await work.nodes.save(after)
                moved = after.in_maintenance != before.in_maintenance
                news = NodeMaintenanceChanged(node_id, after.org_id, after.in_maintenance, now)
                await work.commit(*([news] if moved else []))
            return after

    def _registered(self, caller: Caller, registration: Registration, now: datetime) -> Node:
        config = registration.config
        return Node(
            node_id=NodeId(new_id("node")),
            org_id=caller.org_id,
            user_id=caller.user_id,
            created_at=now,
            changed_at=now,
            name=registration.name,
            role=registration.role or (NodeRole.WORKER,),
            is_local=registration.is_local,
            vpn_ip=registration.vpn_ip,
            config=NodeConfig(config.controller_endpoint or self._enrolment.join_url, config.working_directory),
            labels=registration.labels,
        )
