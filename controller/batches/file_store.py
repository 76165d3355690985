"""Files of batches in PostgreSQL; their bytes are in object storage."""

from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, Index, Table, Text, delete, insert, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.batches.model import File, FileId, FileNotFoundInStoreError, Purpose
from mesh.identity import Caller, OrgId, UserId
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.tables import metadata, moment, owner_columns

files = Table(
    "batch_files",
    metadata,
    Column("file_id", Text, primary_key=True),
    *owner_columns(),
    moment("created_at"),
    Column("filename", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
)
Index("ix_batch_files_created_at_file_id", files.c.created_at, files.c.file_id)


class SqlFileStore:
    """Rows of files. Whoever asks sees those of their organisation; row-level security says so again."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, file_id: str, caller: Caller, *, lock: bool = False) -> File:
        """The file. FileNotFoundInStoreError without one to see."""
        query = select(files).where(files.c.file_id == file_id, _visible(caller))
        row = (await self._connection.execute(query.with_for_update() if lock else query)).one_or_none()
        if row is None:
            raise FileNotFoundInStoreError(file_id)
        return _file(row)

    async def page(self, caller: Caller, page: PageRequest, purpose: Purpose | None, after: str) -> Page[File]:
        """Those of one page, newest first; `after` is the id of one to begin behind, or empty."""
        keyset = Keyset(files.c.created_at, files.c.file_id, "files", purpose)
        query = select(files).where(_visible(caller))
        if purpose is not None:
            query = query.where(files.c.purpose == purpose.value)
        if after:
            last = await self.get(after, caller)
            query = query.where(tuple_(files.c.created_at, files.c.file_id) < (last.created_at, last.file_id))
        rows = (await self._connection.execute(keyset.apply(query, page))).all()
        return keyset.page(rows, page, _file)

    async def add(self, file: File) -> None:
        """A new row."""
        values = {
            "file_id": file.file_id, "org_id": file.org_id, "user_id": file.user_id, "created_at": file.created_at,
            "filename": file.filename, "purpose": file.purpose.value, "size_bytes": file.size_bytes,
        }  # fmt: skip
        await self._connection.execute(insert(files).values(values))

    async def remove(self, file_id: str) -> None:
        """Forgets it."""
        await self._connection.execute(delete(files).where(files.c.file_id == file_id))

    async def known_among(self, file_ids: frozenset[str]) -> frozenset[str]:
        """Those of the ids that have a row."""
        found = await self._connection.execute(select(files.c.file_id).where(files.c.file_id.in_(file_ids)))
        return frozenset(found.scalars())


def _visible(caller: Caller) -> ColumnElement[bool]:
    return files.c.org_id == caller.org_id if not caller.sees_all else files.c.org_id.is_not(None)


def _file(row: Any) -> File:
    return File(
        file_id=FileId(row.file_id),
        org_id=OrgId(row.org_id),
        user_id=UserId(row.user_id),
        filename=row.filename,
        purpose=Purpose(row.purpose),
        size_bytes=row.size_bytes,
        created_at=row.created_at,
    )
