"""Which files object storage holds, by what is in them, and which revisions need them."""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import delete, exists, func, not_, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.models.model import ModelFile
from controller.models.revision_store import blobs, revision_files


class SqlBlobStore:
    """Rows of stored files. Revisions refer to them by foreign keys, so that none that is needed can go."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def pin(self, file: ModelFile, until: datetime) -> bool:
        """Keeps a stored file from being collected; False when there is none with that content."""
        later = func.greatest(func.coalesce(blobs.c.pinned_until, until), until)
        same = (blobs.c.sha256 == file.sha256) & (blobs.c.size_bytes == file.size_bytes)
        statement = update(blobs).where(same).values(pinned_until=later).returning(blobs.c.sha256)
        return (await self._connection.execute(statement)).first() is not None

    async def add(self, file: ModelFile, object_path: str, until: datetime) -> None:
        """A file that was stored just now, pinned; where somebody else was faster, theirs is pinned."""
        values = {
            "sha256": file.sha256,
            "size_bytes": file.size_bytes,
            "object_path": object_path,
            "pinned_until": until,
            "created_at": func.now(),
        }
        statement = insert(blobs).values(values).on_conflict_do_nothing(index_elements=["sha256"])
        if (await self._connection.execute(statement.returning(blobs.c.sha256))).first() is None:
            await self.pin(file, until)

    async def unpin(self, sha256s: Collection[str], until: datetime) -> None:
        """Takes back the pins that were set with this moment."""
        mine = blobs.c.sha256.in_(sha256s) & (blobs.c.pinned_until == until)
        await self._connection.execute(update(blobs).where(mine).values(pinned_until=None))

    async def collect(self, limit: int, among: Collection[str] | None = None) -> tuple[str, ...]:
        """Forgets files that no revision needs and no import counts on; answers their objects, to be removed."""
        needed = exists().where(revision_files.c.sha256 == blobs.c.sha256)
        free = or_(blobs.c.pinned_until.is_(None), blobs.c.pinned_until < func.now())
        query = select(blobs.c.sha256).where(not_(needed), free)
        if among is not None:
            query = query.where(blobs.c.sha256.in_(among))
        chosen = query.limit(limit).with_for_update(skip_locked=True)
        statement = delete(blobs).where(blobs.c.sha256.in_(chosen), not_(needed)).returning(blobs.c.object_path)
        return tuple((await self._connection.execute(statement)).scalars())

    async def known(self, object_paths: Collection[str]) -> frozenset[str]:
        """Those of the paths that are a stored file's."""
        query = select(blobs.c.object_path).where(blobs.c.object_path.in_(object_paths))
        return frozenset((await self._connection.execute(query)).scalars())

    async def deadline(self, patience: timedelta) -> datetime:
        """A moment of the database's clock, for pins."""
        moment: datetime = (await self._connection.execute(select(func.now() + patience))).scalar_one()
        return moment
