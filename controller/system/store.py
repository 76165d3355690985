"""Figures over every room's tables."""

from sqlalchemy import ColumnElement, Select, Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.deployments.model import ACTIVE, DeploymentStatus
from controller.deployments.store import deployments
from controller.iam.store import users
from controller.models.store import models
from controller.nodes.model import NodeStatus
from controller.nodes.store import fleet_guard, nodes
from controller.system.model import Stats, Vitals
from mesh.events.outbox import outbox
from mesh.identity import Caller

_WAITS: ColumnElement[bool] = outbox.c.published_at.is_(None)
_THERE: ColumnElement[bool] = nodes.c.status != NodeStatus.OFFLINE.value
_LOST: ColumnElement[bool] = ~_THERE & nodes.c.last_heartbeat.is_not(None)


class SqlSystemStore:
    """Reads figures, each kind with one statement."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def vitals(self) -> Vitals:
        """What health is judged by."""
        kept = nodes.c.deleted_at.is_(None)
        failed = select(outbox.c.last_error).where(_WAITS, outbox.c.last_error.is_not(None))
        query = select(
            func.clock_timestamp().label("now"),
            _count(outbox, _WAITS).label("waiting_events"),
            select(func.min(outbox.c.created_at)).where(_WAITS).scalar_subquery().label("oldest_event_at"),
            failed.order_by(outbox.c.id).limit(1).scalar_subquery().label("publish_error"),
            _count(nodes, kept).label("nodes"),
            _count(nodes, kept & _LOST).label("nodes_lost"),
            select(func.min(nodes.c.last_heartbeat)).where(kept, _LOST).scalar_subquery().label("lost_since"),
            _count(nodes, kept & ~_THERE & nodes.c.last_heartbeat.is_(None)).label("nodes_expected"),
            func.coalesce(select(fleet_guard.c.silent).scalar_subquery(), 0).label("nodes_guarded"),
        )
        row = (await self._connection.execute(query)).one()
        return Vitals(**{**row._mapping, "publish_error": row.publish_error or ""})

    async def stats(self, caller: Caller) -> Stats:
        """What the caller sees, counted."""
        of_nodes, of_deployments = _visible(nodes, caller), _visible(deployments, caller)
        gpus = select(func.coalesce(func.sum(func.jsonb_array_length(nodes.c.gpu_devices)), 0)).where(of_nodes)
        active = deployments.c.status.in_([each.value for each in ACTIVE])
        query: Select[tuple[int, ...]] = select(
            _count(nodes, of_nodes).label("node_count"),
            _count(nodes, of_nodes & _THERE).label("nodes_online"),
            gpus.scalar_subquery().label("gpu_count"),
            _count(models, _visible(models, caller)).label("model_count"),
            _count(deployments, of_deployments & active).label("deployment_count"),
            _count(deployments, of_deployments & (deployments.c.status == DeploymentStatus.RUNNING.value)).label(
                "deployments_running"
            ),
            _count(users, _visible(users, caller)).label("user_count"),
            _count(outbox, _WAITS).label("outbox_backlog"),
        )
        row = (await self._connection.execute(query)).one()
        return Stats(**row._mapping)


def _count(table: Table, condition: ColumnElement[bool]) -> ColumnElement[int]:
    return select(func.count()).select_from(table).where(condition).scalar_subquery()


def _visible(table: Table, caller: Caller) -> ColumnElement[bool]:
    kept: ColumnElement[bool] = table.c.deleted_at.is_(None)
    return kept if caller.sees_all else kept & (table.c.org_id == caller.org_id)
