"""Nodes and their join tokens in PostgreSQL."""

import asyncio
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.nodes.model import (
    Container,
    FleetGuard,
    Node,
    NodeExistsError,
    NodeId,
    NodeNotFoundError,
    NodeStatus,
)
from controller.nodes.reached import Reached
from controller.nodes.rows import container_of, node_of, row_of
from mesh.identity import Caller
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.snapshot import Snapshot, changed_since, take_snapshot
from mesh.sql.tables import audit_columns, metadata, moment, owner_columns

_OF_A_NAME_TAKEN = "uq_nodes_org_id_name"

nodes = Table(
    "nodes",
    metadata,
    Column("node_id", Text, primary_key=True),
    *owner_columns(),
    *audit_columns(),
    Column("name", Text, nullable=False),
    Column("role", ARRAY(Text), nullable=False),
    Column("is_local", Boolean, nullable=False),
    Column("vpn_ip", Text, nullable=False),
    Column("controller_endpoint", Text, nullable=False),
    Column("working_directory", Text, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("status", Text, nullable=False),
    Column("in_maintenance", Boolean, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("session_holder", Text, nullable=False),
    Column("websocket_connected", Boolean, nullable=False),
    Column("session_epoch", BigInteger, nullable=False),
    moment("session_started_at", nullable=True),
    moment("last_heartbeat", nullable=True),
    moment("lease_expires_at", nullable=True),
    Column("desired_revision", BigInteger, nullable=False),
    Column("applied_revision", BigInteger, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("agent_version", Text, nullable=False),
    Column("agent_address", Text, nullable=False),
    Column("cpu_cores", Integer, nullable=False),
    Column("runtimes", ARRAY(Text), nullable=False),
    Column("engines", ARRAY(Text), nullable=False),
    Column("driver_version", Text, nullable=False),
    Column("gpu_error", Text, nullable=False),
    Column("gpu_devices", JSONB, nullable=False),
    Column("cpu_utilization", Float, nullable=False),
    Column("ram_total", BigInteger, nullable=False),
    Column("ram_free", BigInteger, nullable=False),
    Column("disk_total", BigInteger, nullable=False),
    Column("disk_free", BigInteger, nullable=False),
    moment("measured_at", nullable=True),
    Column("tunnel", JSONB(none_as_null=True), nullable=True),
    Column("runtime_report", JSONB(none_as_null=True), nullable=True),
)
Index(_OF_A_NAME_TAKEN, nodes.c.org_id, nodes.c.name, unique=True, postgresql_where=nodes.c.deleted_at.is_(None))
Index("ix_nodes_lease_expires_at", nodes.c.lease_expires_at, postgresql_where=nodes.c.lease_expires_at.is_not(None))

node_containers = Table(
    "node_containers",
    metadata,
    Column("node_id", Text, ForeignKey("nodes.node_id"), primary_key=True),
    Column("container_id", Text, primary_key=True),
    Column("org_id", Text, nullable=False),
    moment("created_at"),
    Column("content", JSONB, nullable=False),
)

# At most one row: there while the platform believes that it is itself the one that is cut off.
fleet_guard = Table(
    "fleet_guard",
    metadata,
    Column("one", Boolean, primary_key=True),
    Column("silent", Integer, nullable=False),
    Column("leased", Integer, nullable=False),
    moment("held_since"),
)

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("node_id", Text, ForeignKey("nodes.node_id"), nullable=False, index=True),
    Column("org_id", Text, nullable=False),
    moment("expires_at"),
    # Names the key of whoever used the token; empty until then.
    Column("used_by", Text, server_default="", nullable=False),
)

_KEPT: ColumnElement[bool] = nodes.c.deleted_at.is_(None)
# Reading a whole fleet pauses so often for everyone else.
_AT_ONCE = 50

# Routing reads these of every node that tells of itself.
_REACHED = (
    nodes.c.node_id,
    nodes.c.status,
    nodes.c.deleted_at,
    nodes.c.vpn_ip,
    nodes.c.agent_address,
    nodes.c.tunnel.is_not(None).label("tunnelled"),
)


class SqlNodeStore:
    """Rows of nodes. Whoever asks for a node sees those of their organisation; row-level security says so again."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def now(self) -> datetime:
        """The database's time, which every controller shares."""
        moment_now: datetime = (await self._connection.execute(select(func.clock_timestamp()))).scalar_one()
        return moment_now

    async def get(self, node_id: NodeId, caller: Caller, *, lock: bool = False) -> Node:
        """The node, locked until the transaction ends on request. NodeNotFoundError when there is none to see."""
        query = select(nodes).where(nodes.c.node_id == node_id, _visible(caller))
        row = (await self._connection.execute(query.with_for_update() if lock else query)).mappings().one_or_none()
        if row is None:
            raise NodeNotFoundError(node_id)
        return node_of(row)

    async def page(self, caller: Caller, page: PageRequest, status: NodeStatus | None) -> Page[Node]:
        """The nodes of one page, newest first."""
        keyset = Keyset(nodes.c.created_at, nodes.c.node_id, "nodes", status)
        query = select(nodes).where(_visible(caller))
        if status is not None:
            query = query.where(nodes.c.status == status.value)
        rows = (await self._connection.execute(keyset.apply(query, page))).all()
        return keyset.page(rows, page, lambda row: node_of(row._mapping))

    async def snapshot(self) -> Snapshot:
        """What later tells which rows have changed."""
        return await take_snapshot(self._connection)

    async def changed(self, since: Snapshot | None) -> tuple[Node, ...]:
        """The nodes that changed since then, removed ones too; every node that is kept without a snapshot."""
        query = select(nodes).where(_KEPT if since is None else changed_since(nodes, since))
        found = list[Node]()
        for number, row in enumerate((await self._connection.execute(query)).mappings(), 1):
            found.append(node_of(row))
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return tuple(found)

    async def reached_changed(self, since: Snapshot | None) -> tuple[Reached, ...]:
        """How nodes that changed since then are reached, those that are gone too; all without a snapshot."""
        query = select(*_REACHED).where(_KEPT if since is None else changed_since(nodes, since))
        return tuple(_reached(row) for row in (await self._connection.execute(query)).all())

    async def add(self, node: Node) -> None:
        """A new row. NodeExistsError when the organisation has a node of that name."""
        await self._named(node, insert(nodes).values(row_of(node)))

    async def save(self, node: Node) -> None:
        """The row as the node says, but for `desired_revision`, which only `next_revision` moves."""
        row = row_of(node)
        del row["desired_revision"]
        await self._named(node, update(nodes).where(nodes.c.node_id == node.node_id).values(row))

    async def next_revision(self, node_id: NodeId) -> int:
        """The next revision of the node's desired state; locks the node until the transaction ends."""
        query = (
            update(nodes)
            .where(nodes.c.node_id == node_id, _KEPT)
            .values(desired_revision=nodes.c.desired_revision + 1)
            .returning(nodes.c.desired_revision)
        )
        revision: int | None = (await self._connection.execute(query)).scalar_one_or_none()
        if revision is None:
            raise NodeNotFoundError(node_id)
        return revision

    async def lost(self, now: datetime) -> tuple[Node, ...]:
        """The nodes whose lease has run out, locked; those that another transaction holds are left to it."""
        query = select(nodes).where(_KEPT, nodes.c.lease_expires_at < now).with_for_update(skip_locked=True)
        return tuple(node_of(row) for row in (await self._connection.execute(query)).mappings())

    async def count_leased(self, ending_before: datetime) -> tuple[int, int]:
        """How many leases end before a moment, and how many there are, run out or not."""
        ending = func.count().filter(nodes.c.lease_expires_at < ending_before)
        query = select(ending, func.count()).where(_KEPT, nodes.c.lease_expires_at.is_not(None))
        row = (await self._connection.execute(query)).one()
        return row[0], row[1]

    async def guard(self, guard: FleetGuard | None) -> bool:
        """Remembers whether the guard is held; answers whether that is new, to one of several controllers only."""
        if guard is None:
            dropped = await self._connection.execute(delete(fleet_guard).returning(fleet_guard.c.one))
            return dropped.first() is not None
        row = {"one": True, **asdict(guard)}
        held = await self._connection.execute(
            insert(fleet_guard).values(row).on_conflict_do_nothing().returning(fleet_guard.c.one)
        )
        return held.first() is not None

    async def containers(self, node_id: NodeId, page: PageRequest) -> Page[Container]:
        """What runs on the node, the youngest first."""
        keyset = Keyset(node_containers.c.created_at, node_containers.c.container_id, "containers", node_id)
        query = select(node_containers).where(node_containers.c.node_id == node_id)
        rows = (await self._connection.execute(keyset.apply(query, page))).all()
        return keyset.page(rows, page, lambda row: container_of(row.content))

    async def _named(self, node: Node, statement: Any) -> None:
        try:
            await self._connection.execute(statement)
        except IntegrityError as error:
            if _OF_A_NAME_TAKEN in str(error):
                raise NodeExistsError(node.name) from error
            raise


class SqlJoinTokenStore:
    """Join tokens, kept as hashes."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def replace(self, node: Node, token_hash: str, expires_at: datetime) -> None:
        """The one token of the node; earlier ones end."""
        await self._connection.execute(delete(join_tokens).where(join_tokens.c.node_id == node.node_id))
        row = {"token_hash": token_hash, "node_id": node.node_id, "org_id": node.org_id, "expires_at": expires_at}
        await self._connection.execute(insert(join_tokens).values(row))

    async def redeem(self, token_hash: str, key: str, now: datetime) -> NodeId | None:
        """The node that the token is for; None for one that is unknown, has run out or was used by another key."""
        free = join_tokens.c.used_by.in_(["", key])
        query = update(join_tokens).where(join_tokens.c.token_hash == token_hash, join_tokens.c.expires_at > now, free)
        found = (
            await self._connection.execute(query.values(used_by=key).returning(join_tokens.c.node_id))
        ).one_or_none()
        return NodeId(found.node_id) if found else None

    async def forget(self, node_id: NodeId) -> None:
        """Ends the node's tokens."""
        await self._connection.execute(delete(join_tokens).where(join_tokens.c.node_id == node_id))


def _visible(caller: Caller) -> ColumnElement[bool]:
    return _KEPT if caller.sees_all else _KEPT & (nodes.c.org_id == caller.org_id)


def _reached(row: Any) -> Reached:
    live = row.status != NodeStatus.OFFLINE.value and row.deleted_at is None
    return Reached(NodeId(row.node_id), row.vpn_ip or row.agent_address, row.tunnelled, live)
