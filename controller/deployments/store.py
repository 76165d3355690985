"""Deployments in PostgreSQL."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    Select,
    Table,
    Text,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.deployments.holding import Holding
from controller.deployments.model import ACTIVE, Deployment, DeploymentId, DeploymentNotFoundError, DeploymentStatus
from controller.deployments.node_failures import MOST_NODES, NODE_REASONS
from controller.deployments.rows import deployment_of, row_of
from controller.deployments.serving import Replica, replicas_of
from controller.deployments.workload import Goal
from controller.models.model import ModelId
from controller.nodes.model import NodeId, NodeStatus
from controller.nodes.store import nodes
from mesh.identity import Caller
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.snapshot import Snapshot, changed_since
from mesh.sql.tables import audit_columns, metadata, moment, owner_columns

deployments = Table(
    "deployments",
    metadata,
    Column("deployment_id", Text, primary_key=True),
    *owner_columns(),
    *audit_columns(),
    Column("instance_id", Text, nullable=False, unique=True),
    Column("model_id", Text, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("model_revision", Text, nullable=False, server_default=""),
    Column("framework", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("image", Text, nullable=False),
    Column("gpu_devices", ARRAY(Text), nullable=False),
    Column("memory_allocated", Integer, nullable=False),
    Column("requested_port", Integer, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("goal", Text, nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("requested_devices", ARRAY(Text), nullable=False),
    Column("requested_image", Text, nullable=False),
    Column("environment", JSONB, nullable=False),
    Column("program", JSONB, nullable=False),
    Column("replica_set_id", Text, nullable=False),
    Column("template_revision", Integer, nullable=False),
    Column("replaces", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("status_reason", Text, nullable=False),
    moment("waiting_since", nullable=True),
    Column("observed", JSONB, nullable=False),
    Column("options", JSONB, nullable=False, server_default="{}"),
    Column("engine_options", JSONB, nullable=False),
    Column("adapters", JSONB, nullable=False),
    Column("failed_on", ARRAY(Text), nullable=False, server_default="{}"),
    moment("deployed_at", nullable=True),
    moment("stopped_at", nullable=True),
    moment("ended_at", nullable=True),
)
_IS_ACTIVE: ColumnElement[bool] = deployments.c.status.in_([each.value for each in ACTIVE])
_HOLDS: ColumnElement[bool] = _IS_ACTIVE & (deployments.c.goal == Goal.RUN.value)
# Placement reads these of every deployment, so no more than these.
_HELD = (
    deployments.c.deployment_id,
    deployments.c.model_id,
    deployments.c.node_id,
    deployments.c.gpu_devices,
    deployments.c.memory_allocated,
    deployments.c.requested_port,
    deployments.c.status,
    deployments.c.deployed_at,
    deployments.c.observed["port"].as_integer().label("observed_port"),
    deployments.c.observed["memory_mb"].as_integer().label("observed_memory_mb"),
    deployments.c.options["priority"].as_integer().label("priority"),
    _HOLDS.label("active"),
)
# Longer than a statement may take, and than a transaction waits for a lock.
_OVERLAP = timedelta(minutes=2)
Index("ix_deployments_created_at_deployment_id", deployments.c.created_at, deployments.c.deployment_id)
Index("ix_deployments_changed_at", deployments.c.changed_at)
Index("ix_deployments_model_id", deployments.c.model_id, postgresql_where=_IS_ACTIVE)
Index(
    "ix_deployments_replica_set_id", deployments.c.replica_set_id, postgresql_where=deployments.c.goal == Goal.RUN.value
)
_HAS_FAILED: ColumnElement[bool] = (deployments.c.goal == Goal.RUN.value) & (
    deployments.c.status == DeploymentStatus.FAILED.value
)
Index("ix_deployments_failed", deployments.c.deployment_id, postgresql_where=_HAS_FAILED)
Index("ix_deployments_node_id_revision", deployments.c.node_id, deployments.c.revision)


class SqlDeploymentStore:
    """Rows of deployments. Whoever asks sees those of their organisation; row-level security says so again."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, deployment_id: DeploymentId, caller: Caller, *, lock: bool = False) -> Deployment:
        """The deployment, locked until the transaction ends on request. DeploymentNotFoundError without one to see."""
        query = select(deployments).where(deployments.c.deployment_id == deployment_id, _visible(caller))
        row = (await self._connection.execute(query.with_for_update() if lock else query)).one_or_none()
        if row is None:
            raise DeploymentNotFoundError(deployment_id)
        return deployment_of(row)

    async def page(
        self, caller: Caller, page: PageRequest, status: DeploymentStatus | None, model_id: str, node_id: str
    ) -> Page[Deployment]:
        """The deployments of one page, newest first; empty filters let everything through."""
        keyset = Keyset(deployments.c.created_at, deployments.c.deployment_id, "deployments", status, model_id, node_id)
        query = select(deployments).where(_visible(caller))
        if status is not None:
            query = query.where(deployments.c.status == status.value)
        if model_id:
            # A name will do as well as an id, as everywhere.
            query = query.where(or_(deployments.c.model_id == model_id, deployments.c.model_name == model_id))
        if node_id:
            query = query.where(deployments.c.node_id == node_id)
        rows = (await self._connection.execute(keyset.apply(query, page))).all()
        return keyset.page(rows, page, deployment_of)

    async def add(self, deployment: Deployment) -> None:
        """A new row."""
        await self._connection.execute(insert(deployments).values(row_of(deployment)))

    async def save(self, deployment: Deployment) -> None:
        """The row as the deployment says."""
        key = deployments.c.deployment_id == deployment.deployment_id
        await self._connection.execute(update(deployments).where(key).values(row_of(deployment)))

    async def active_of(self, model_id: ModelId) -> Sequence[str]:
        """The ids of the deployments that deploy or run the model, or have it as an adapter."""
        as_adapter = deployments.c.adapters.contains([{"model_id": model_id}])
        uses = or_(deployments.c.model_id == model_id, as_adapter)
        query = select(deployments.c.deployment_id).where(uses, _IS_ACTIVE)
        return (await self._connection.execute(query.order_by(deployments.c.deployment_id))).scalars().all()

    async def holdings(self, node_id: NodeId) -> tuple[Holding, ...]:
        """What is held on a node."""
        query = select(*_HELD).where(deployments.c.node_id == node_id, _HOLDS)
        rows = (await self._connection.execute(query.order_by(deployments.c.deployment_id))).all()
        return tuple(_holding(row) for row in rows)

    async def holdings_changed(self, since: Snapshot | None) -> tuple[Holding, ...]:
        """What deployments hold that changed since then, also those that hold nothing any more; all without a snapshot.

        The time only spares a look at every deployment that ever was: no transaction lasts as long as the overlap.
        """
        query = select(*_HELD)
        if since is None:
            query = query.where(_HOLDS)
        else:
            query = query.where(deployments.c.changed_at >= since.at - _OVERLAP, changed_since(deployments, since))
        return tuple(_holding(row) for row in (await self._connection.execute(query)).all())

    async def on_node(self, node_id: NodeId, *, lock: bool = False) -> tuple[Deployment, ...]:
        """What a node is to run, or is to end and has not told the end of."""
        unended = or_(deployments.c.goal == Goal.RUN.value, deployments.c.ended_at.is_(None))
        query = select(deployments).where(deployments.c.node_id == node_id, unended)
        return await self._all(query.with_for_update() if lock else query)

    async def changed_since(self, node_id: NodeId, revision: int) -> tuple[Deployment, ...]:
        """What changed on a node after a revision of its desired state."""
        return await self._all(
            select(deployments).where(deployments.c.node_id == node_id, deployments.c.revision > revision)
        )

    async def count_active_on(self, node_id: NodeId) -> int:
        """How many deployments deploy or run on a node."""
        query = select(func.count()).where(deployments.c.node_id == node_id, _HOLDS)
        count: int = (await self._connection.execute(query)).scalar_one()
        return count

    async def stranded(self) -> tuple[DeploymentId, ...]:
        """What is to run and is on a node that is gone, but for pinned ones that know it; and what was evicted."""
        unaware = or_(deployments.c.pinned.is_(False), deployments.c.waiting_since.is_(None))
        gone = nodes.c.status == NodeStatus.OFFLINE.value
        evicted = (deployments.c.goal == Goal.END.value) & deployments.c.waiting_since.is_not(None)
        query = (
            select(deployments.c.deployment_id)
            .join(nodes, nodes.c.node_id == deployments.c.node_id)
            .where(_IS_ACTIVE)
            .where(or_(_HOLDS & gone & unaware, evicted & or_(gone, deployments.c.ended_at.is_not(None))))
        )
        rows = await self._connection.execute(query.order_by(deployments.c.deployment_id))
        return tuple(DeploymentId(each) for each in rows.scalars())

    async def failed_for_their_node(self) -> tuple[DeploymentId, ...]:
        """What may do better on another node, as `may_leave` says of each."""
        alone = deployments.c.pinned.is_(False) & (deployments.c.replica_set_id == "") & (deployments.c.replaces == "")
        query = select(deployments.c.deployment_id).where(
            alone,
            _HAS_FAILED,
            deployments.c.observed["error_reason"].astext.in_(NODE_REASONS),
            func.cardinality(deployments.c.failed_on) < MOST_NODES - 1,
        )
        rows = await self._connection.execute(query.order_by(deployments.c.deployment_id))
        return tuple(DeploymentId(each) for each in rows.scalars())

    async def leaving(self) -> tuple[DeploymentId, ...]:
        """What is to run elsewhere because its node is being emptied; sets see to their replicas themselves."""
        alone = deployments.c.pinned.is_(False) & (deployments.c.replica_set_id == "")
        query = (
            select(deployments.c.deployment_id)
            .join(nodes, nodes.c.node_id == deployments.c.node_id)
            .where(_IS_ACTIVE, deployments.c.goal == Goal.RUN.value, alone)
            .where(nodes.c.draining, nodes.c.status != NodeStatus.OFFLINE.value)
        )
        rows = await self._connection.execute(query.order_by(deployments.c.deployment_id))
        return tuple(DeploymentId(each) for each in rows.scalars())

    async def needless(self) -> tuple[DeploymentId, ...]:
        """Replacements of what is not to be replaced any more: it has ended, or its node is not being emptied."""
        first = deployments.alias()
        there = (first.c.goal == Goal.RUN.value) & first.c.status.in_([each.value for each in ACTIVE])
        query = (
            select(deployments.c.deployment_id)
            .join(first, first.c.deployment_id == deployments.c.replaces)
            .join(nodes, nodes.c.node_id == first.c.node_id)
            .where(deployments.c.replaces != "", deployments.c.goal == Goal.RUN.value)
            .where(or_(~there, nodes.c.draining.is_(False)))
        )
        return tuple(DeploymentId(each) for each in (await self._connection.execute(query)).scalars())

    async def successor(self, deployment_id: DeploymentId) -> Deployment | None:
        """What is to run in the deployment's place, when there is something."""
        mine = (deployments.c.replaces == deployment_id) & (deployments.c.goal == Goal.RUN.value)
        row = (await self._connection.execute(select(deployments).where(mine).limit(1))).one_or_none()
        return deployment_of(row) if row else None

    async def replicas(self) -> tuple[Replica, ...]:
        """The instances that run on nodes that are there."""
        query = (
            select(deployments, nodes.c.vpn_ip, nodes.c.agent_address, nodes.c.tunnel)
            .join(nodes, nodes.c.node_id == deployments.c.node_id)
            .where(
                deployments.c.status == DeploymentStatus.RUNNING.value,
                nodes.c.status != NodeStatus.OFFLINE.value,
                nodes.c.deleted_at.is_(None),
            )
            .order_by(deployments.c.deployment_id)
        )
        rows = (await self._connection.execute(query)).all()
        return tuple(
            each
            for row in rows
            for each in replicas_of(deployment_of(row), row.vpn_ip or row.agent_address, bool(row.tunnel))
        )

    async def running_changed(self, since: Snapshot | None) -> tuple[Deployment, ...]:
        """Deployments that changed since then, also those that do not run; all that run without a snapshot."""
        if since is None:
            return await self._all(select(deployments).where(deployments.c.status == DeploymentStatus.RUNNING.value))
        recent = deployments.c.changed_at >= since.at - _OVERLAP
        return await self._all(select(deployments).where(recent, changed_since(deployments, since)))

    async def _all(self, query: Select[Any]) -> tuple[Deployment, ...]:
        rows = (await self._connection.execute(query.order_by(deployments.c.deployment_id))).all()
        return tuple(deployment_of(row) for row in rows)


def _holding(row: Any) -> Holding:
    runs = row.status == DeploymentStatus.RUNNING.value
    return Holding(
        deployment_id=DeploymentId(row.deployment_id),
        model_id=ModelId(row.model_id),
        node_id=NodeId(row.node_id),
        gpu_devices=tuple(row.gpu_devices),
        memory_allocated=row.memory_allocated,
        port=row.observed_port or row.requested_port,
        memory_mb=row.observed_memory_mb,
        running_since=row.deployed_at if runs else None,
        priority=row.priority or 0,
        active=row.active,
    )


def _visible(caller: Caller) -> ColumnElement[bool]:
    kept: ColumnElement[bool] = deployments.c.deleted_at.is_(None)
    return kept if caller.sees_all else kept & (deployments.c.org_id == caller.org_id)
