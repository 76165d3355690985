"""Nodes and their join tokens in PostgreSQL."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from functools import cache
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
    RowMapping,
    Table,
    Text,
    bindparam,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.nodes.devices import GpuDevice
from controller.nodes.model import (
    Container,
    EngineLoad,
    FleetGuard,
    Gauges,
    Node,
    NodeConfig,
    NodeExistsError,
    NodeId,
    NodeNotFoundError,
    NodeRole,
    NodeStatus,
    Tunnel,
)
from controller.nodes.runtimes import NO_RUNTIMES, Runtimes
from mesh.identity import Caller, OrgId, UserId
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
        return _node(row)

    async def get_all(self, node_ids: Collection[NodeId]) -> dict[NodeId, Node]:
        """The nodes that there are of these, locked until the transaction ends."""
        # In one order for everybody, so that two who lock several never wait for each other.
        query = select(nodes).where(nodes.c.node_id.in_(node_ids), _KEPT).order_by(nodes.c.node_id).with_for_update()
        found = [_node(row) for row in (await self._connection.execute(query)).mappings()]
        return {node.node_id: node for node in found}

    async def save_readings(self, beaten: Collection[Node]) -> None:
        """What a heartbeat changes, of many nodes at once."""
        rows = [_row(node) for node in beaten]
        changed = [{"of_node": row["node_id"], **{name: row[name] for name in _BEATEN}} for row in rows]
        if changed:
            statement = update(nodes).where(nodes.c.node_id == bindparam("of_node"))
            await self._connection.execute(statement.values({name: bindparam(name) for name in _BEATEN}), changed)

    async def page(self, caller: Caller, page: PageRequest, status: NodeStatus | None) -> Page[Node]:
        """The nodes of one page, newest first."""
        keyset = Keyset(nodes.c.created_at, nodes.c.node_id, "nodes", status)
        query = select(nodes).where(_visible(caller))
        if status is not None:
            query = query.where(nodes.c.status == status.value)
        rows = (await self._connection.execute(keyset.apply(query, page))).all()
        return keyset.page(rows, page, lambda row: _node(row._mapping))

    async def snapshot(self) -> Snapshot:
        """What later tells which rows have changed."""
        return await take_snapshot(self._connection)

    async def changed(self, since: Snapshot | None) -> tuple[Node, ...]:
        """The nodes that changed since then, removed ones too; every node that is kept without a snapshot."""
        query = select(nodes).where(_KEPT if since is None else changed_since(nodes, since))
        return tuple(_node(row) for row in (await self._connection.execute(query)).mappings())

    async def add(self, node: Node) -> None:
        """A new row. NodeExistsError when the organisation has a node of that name."""
        await self._named(node, insert(nodes).values(_row(node)))

    async def save(self, node: Node) -> None:
        """The row as the node says, but for `desired_revision`, which only `next_revision` moves."""
        row = _row(node)
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
        return tuple(_node(row) for row in (await self._connection.execute(query)).mappings())

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

    async def save_containers(self, node: Node, containers: Sequence[Container], now: datetime) -> None:
        """What runs on the node, instead of what was said before."""
        rows = {each.container_id or each.container_name: each for each in containers}
        gone = (node_containers.c.node_id == node.node_id) & node_containers.c.container_id.not_in(list(rows))
        await self._connection.execute(delete(node_containers).where(gone))
        if not rows:
            return
        statement = insert(node_containers).values([_container_row(node, key, rows[key], now) for key in rows])
        content = statement.excluded.content
        await self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=["node_id", "container_id"],
                set_={"content": content},
                where=node_containers.c.content.is_distinct_from(content),
            )
        )

    async def containers(self, node_id: NodeId, page: PageRequest) -> Page[Container]:
        """What runs on the node, the youngest first."""
        keyset = Keyset(node_containers.c.created_at, node_containers.c.container_id, "containers", node_id)
        query = select(node_containers).where(node_containers.c.node_id == node_id)
        rows = (await self._connection.execute(keyset.apply(query, page))).all()
        return keyset.page(rows, page, lambda row: _container(row.content))

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


def _node(row: RowMapping) -> Node:
    return Node(
        node_id=NodeId(row["node_id"]),
        org_id=OrgId(row["org_id"]),
        user_id=UserId(row["user_id"]),
        role=tuple(NodeRole(each) for each in row["role"]),
        status=NodeStatus(row["status"]),
        config=NodeConfig(row["controller_endpoint"], row["working_directory"]),
        runtimes=tuple(row["runtimes"]),
        engines=tuple(row["engines"]),
        gauges=Gauges(
            gpu_devices=tuple(GpuDevice(**_known(GpuDevice, each)) for each in row["gpu_devices"]),
            runtimes=_runtimes(row["runtime_report"]) if row["runtime_report"] else NO_RUNTIMES,
            tunnel=Tunnel(**_known(Tunnel, row["tunnel"])) if row["tunnel"] else None,
            **{name: row[name] for name in _GAUGES},
        ),
        **{name: row[name] for name in _PLAIN},
    )


def _runtimes(report: Mapping[str, Any]) -> Runtimes:
    known = _known(Runtimes, report)
    return Runtimes(**{**known, "names": tuple(known["names"])})


def _row(node: Node) -> dict[str, Any]:
    return {
        "node_id": node.node_id,
        "org_id": node.org_id,
        "user_id": node.user_id,
        "role": [each.value for each in node.role],
        "status": node.status.value,
        "controller_endpoint": node.config.controller_endpoint,
        "working_directory": node.config.working_directory,
        "runtimes": list(node.runtimes),
        "engines": list(node.engines),
        "gpu_devices": [{name: getattr(each, name) for name in _DEVICE} for each in node.gauges.gpu_devices],
        "runtime_report": {name: getattr(node.gauges.runtimes, name) for name in _RUNTIMES},
        "tunnel": asdict(node.gauges.tunnel) if node.gauges.tunnel else None,
        **{name: getattr(node.gauges, name) for name in _GAUGES},
        **{name: getattr(node, name) for name in _PLAIN},
    }


# Heartbeats write and read devices by the thousand: copying them by hand takes a tenth of `asdict`.
_DEVICE = tuple(each.name for each in fields(GpuDevice))
_RUNTIMES = tuple(each.name for each in fields(Runtimes))
_GAUGES = [each.name for each in fields(Gauges) if each.name not in {"gpu_devices", "tunnel", "runtimes"}]
_BEATEN = (
    *("status", "websocket_connected", "last_heartbeat", "lease_expires_at", "applied_revision"),
    *("gpu_devices", "tunnel", "runtime_report"),
    *_GAUGES,
)
_CONVERTED = {"node_id", "org_id", "user_id", "role", "status", "runtimes", "engines"}
_PLAIN = [each.name for each in fields(Node) if each.name in nodes.c and each.name not in _CONVERTED]


def _container_row(node: Node, key: str, container: Container, now: datetime) -> dict[str, Any]:
    started_at = container.started_at
    return {
        "node_id": node.node_id,
        "container_id": key,
        "org_id": node.org_id,
        "created_at": started_at or now,
        "content": {**asdict(container), "started_at": started_at.isoformat() if started_at else None},
    }


def _container(row: Mapping[str, Any]) -> Container:
    load = row.get("engine_load")
    started_at = row.get("started_at")
    known = _known(Container, row)
    known["engine_load"] = EngineLoad(**_known(EngineLoad, load)) if load else None
    return Container(**{**known, "started_at": datetime.fromisoformat(started_at) if started_at else None})


def _known(model: type, row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a JSON row this version knows; another version may have written it."""
    names = _names_of(model)
    return {name: value for name, value in row.items() if name in names}


@cache
def _names_of(model: type) -> frozenset[str]:
    return frozenset(each.name for each in fields(model))
