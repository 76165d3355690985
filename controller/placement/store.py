"""Measured peaks in PostgreSQL."""

from collections.abc import Mapping

from sqlalchemy import Column, Integer, Table, Text, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.models.model import ModelId
from controller.placement.model import Peak, PeakKey
from mesh.identity import OrgId
from mesh.sql.tables import metadata, moment

memory_peaks = Table(
    "memory_peaks",
    metadata,
    Column("org_id", Text, primary_key=True),
    Column("model_id", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("engine", Text, primary_key=True),
    Column("devices", Integer, primary_key=True, autoincrement=False),
    Column("context", Integer, primary_key=True, autoincrement=False),
    Column("concurrency", Integer, primary_key=True, autoincrement=False),
    Column("peak_mb", Integer, nullable=False),
    Column("samples", Integer, nullable=False),
    moment("measured_at"),
)


class SqlPeakStore:
    """What models were measured to need, per device or of RAM."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def of(self, model_id: ModelId, digest: str) -> Mapping[PeakKey, Peak]:
        """What is known of a revision of a model."""
        query = select(memory_peaks).where(memory_peaks.c.model_id == model_id, memory_peaks.c.digest == digest)
        rows = (await self._connection.execute(query)).all()
        return {
            PeakKey(model_id, digest, row.engine, row.devices, row.context, row.concurrency): Peak(
                row.peak_mb, row.samples
            )
            for row in rows
        }

    async def raise_to(self, org_id: OrgId, key: PeakKey, peak: Peak) -> None:
        """Keeps the highest peak that was ever measured, and counts the samples."""
        statement = insert(memory_peaks).values(
            org_id=org_id,
            model_id=key.model_id,
            digest=key.digest,
            engine=key.engine,
            devices=key.devices,
            context=key.context,
            concurrency=key.concurrency,
            peak_mb=peak.mb,
            samples=peak.samples,
            measured_at=func.clock_timestamp(),
        )
        await self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=[column.name for column in memory_peaks.primary_key],
                set_={
                    "peak_mb": func.greatest(memory_peaks.c.peak_mb, statement.excluded.peak_mb),
                    "samples": memory_peaks.c.samples + statement.excluded.samples,
                    "measured_at": statement.excluded.measured_at,
                },
            )
        )
