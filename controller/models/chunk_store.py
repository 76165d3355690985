"""The chunks of stored files in PostgreSQL, by the content of the file, whichever models have it."""

from collections.abc import Collection, Mapping

from sqlalchemy import Column, Integer, LargeBinary, Table, Text, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.models.model import Chunks
from mesh.sql.tables import metadata

file_chunks = Table(
    "file_chunks",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("chunk_bytes", Integer, nullable=False),
    Column("chunk_sha256s", LargeBinary, nullable=False),
)


class SqlChunkStore:
    """Rows of files and their chunks."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, chunks: Mapping[str, Chunks]) -> None:
        """Keeps what the chunks of files are, by the file's sha256; what is known already stays."""
        rows = [
            {"sha256": sha256, "chunk_bytes": each.size_bytes, "chunk_sha256s": each.sha256s}
            for sha256, each in chunks.items()
        ]
        if rows:
            await self._connection.execute(insert(file_chunks).on_conflict_do_nothing(), rows)

    async def of(self, sha256s: Collection[str]) -> dict[str, Chunks]:
        """The chunks of those files whose chunks are known."""
        query = select(file_chunks).where(file_chunks.c.sha256.in_(sha256s))
        rows = await self._connection.execute(query)
        return {row.sha256: Chunks(row.chunk_bytes, row.chunk_sha256s) for row in rows}
