"""Counts over the whole platform, one statement each."""

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, Select, Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.deployments.store import deployments
from controller.iam.store import users
from controller.models.store import models
from controller.nodes.store import nodes
from controller.system.model import Stats, Vitals
from mesh.events.outbox import outbox
from mesh.identity import Caller

_ONLINE = nodes.c.websocket_connected & (nodes.c.status != "offline")
_ACTIVE = deployments.c.status.in_(("deploying", "running"))
_WAITING: Select[Any] = select(func.count()).select_from(outbox).where(outbox.c.published_at.is_(None))


class SqlSystemStore:
    """Reads across the rooms. Organisations are kept apart by row-level security and again by each statement."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def vitals(self) -> Vitals:
        """The platform's vitals, over every organisation. A node that never joined is not counted."""
        age = select(func.now() - func.min(outbox.c.created_at)).where(outbox.c.published_at.is_(None))
        joined = nodes.c.last_heartbeat.is_not(None) & nodes.c.deleted_at.is_(None)
        counted = select(func.count(), func.count().filter(_ONLINE)).where(joined)
        total, online = (await self._connection.execute(counted)).one()
        waiting = select(age.scalar_subquery(), _WAITING.scalar_subquery())
        oldest, backlog = (await self._connection.execute(waiting)).one()
        return Vitals(total, online, oldest or timedelta(0), backlog)

    async def stats(self, caller: Caller) -> Stats:
        """Counts of what the caller sees."""
        gpus = func.coalesce(func.sum(func.jsonb_array_length(nodes.c.gpu_devices)), 0)
        row = await self._connection.execute(
            select(
                _counted(nodes, caller),
                _counted(nodes, caller, _ONLINE),
                select(gpus).where(_seen(nodes, caller)).scalar_subquery(),
                _counted(models, caller),
                _counted(deployments, caller, _ACTIVE),
                _counted(deployments, caller, deployments.c.status == "running"),
                _counted(users, caller),
                _WAITING.scalar_subquery(),
            )
        )
        return Stats(*row.one())


def _counted(table: Table, caller: Caller, *conditions: ColumnElement[bool]) -> ScalarSelect[Any]:
    return select(func.count()).select_from(table).where(_seen(table, caller), *conditions).scalar_subquery()


def _seen(table: Table, caller: Caller) -> ColumnElement[bool]:
    kept = table.c.deleted_at.is_(None)
    return kept if caller.sees_all else kept & (table.c.org_id == caller.org_id)
