"""The requests of deployments in PostgreSQL: sums in rows of their own, so that counting never waits for placing."""

from collections.abc import Collection, Mapping

from sqlalchemy import BigInteger, Column, Float, Table, Text, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.deployments.model import DeploymentId
from controller.deployments.traffic import Traffic
from mesh.identity import OrgId
from mesh.sql.tables import metadata, moment

deployment_traffic = Table(
    "deployment_traffic",
    metadata,
    Column("deployment_id", Text, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("duration_ms", Float, nullable=False),
    moment("last_request_at"),
)


class SqlTrafficStore:
    """Rows of sums."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def of(self, ids: Collection[DeploymentId]) -> Mapping[DeploymentId, Traffic]:
        """The traffic of those that had some."""
        if not ids:
            return {}
        query = select(deployment_traffic).where(deployment_traffic.c.deployment_id.in_(ids))
        rows = await self._connection.execute(query)
        return {
            DeploymentId(row.deployment_id): Traffic(row.requests, row.duration_ms, row.last_request_at) for row in rows
        }

    async def add(self, org_id: OrgId, deployment_id: DeploymentId, more: Traffic) -> None:
        """Adds requests that ended."""
        row = insert(deployment_traffic).values(
            deployment_id=deployment_id,
            org_id=org_id,
            requests=more.requests,
            duration_ms=more.duration_ms,
            last_request_at=more.last_request_at,
        )
        kept, new = deployment_traffic.c, row.excluded
        await self._connection.execute(
            row.on_conflict_do_update(
                index_elements=[kept.deployment_id],
                set_={
                    "requests": kept.requests + new.requests,
                    "duration_ms": kept.duration_ms + new.duration_ms,
                    "last_request_at": func.greatest(kept.last_request_at, new.last_request_at),
                },
            )
        )
