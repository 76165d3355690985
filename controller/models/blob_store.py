"""Which files object storage holds, by what is in them, and which revisions need them."""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import delete, exists, func, not_, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.models.model import ModelFile
from controller.models.revision_store import blobs, revision_files
from mesh.errors import ConflictError

_TRIES = 5


class SqlBlobStore:
    """Rows of stored files. Revisions refer to them by foreign keys, so that none that is needed can go."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def pin(self, file: ModelFile, pin: str, patience: timedelta) -> bool:
        """Keeps a stored file from being collected until it is unpinned; False when there is none with that content.

        `patience` is how long a pin counts whose import never comes back.
        """
        same = (blobs.c.sha256 == file.sha256) & (blobs.c.size_bytes == file.size_bytes)
        values = {"pins": func.array_append(blobs.c.pins, pin), "pinned_until": func.now() + patience}
        statement = update(blobs).where(same).values(values).returning(blobs.c.sha256)
        return (await self._connection.execute(statement)).first() is not None

    async def add(self, file: ModelFile, object_path: str, pin: str, patience: timedelta) -> None:
        """A file that was stored just now, pinned; where somebody else was faster, theirs is pinned.

        ConflictError when theirs goes away again each time we look.
        """
        values = {
            "sha256": file.sha256,
            "size_bytes": file.size_bytes,
            "object_path": object_path,
            "pins": [pin],
            "pinned_until": func.now() + patience,
            "created_at": func.now(),
        }
        statement = insert(blobs).values(values).on_conflict_do_nothing(index_elements=["sha256"])
        for _ in range(_TRIES):
            if (await self._connection.execute(statement.returning(blobs.c.sha256))).first() is not None:
                return
            if await self.pin(file, pin, patience):
                return
        raise ConflictError(f"{file.path} comes and goes in object storage; repeat the import", sha256=file.sha256)

    async def unpin(self, sha256s: Collection[str], pin: str) -> None:
        """Takes an import's pins back."""
        statement = update(blobs).where(blobs.c.sha256.in_(sha256s))
        await self._connection.execute(statement.values(pins=func.array_remove(blobs.c.pins, pin)))

    async def collect(self, limit: int, among: Collection[str] | None = None) -> tuple[str, ...]:
        """Forgets files that no revision needs and no import counts on; answers their objects, to be removed.

        They are locked first and looked at again then: nobody can begin to need one that is locked.
        """
        needed = exists().where(revision_files.c.sha256 == blobs.c.sha256)
        free = or_(func.cardinality(blobs.c.pins) == 0, blobs.c.pinned_until < func.now())
        query = select(blobs.c.sha256).where(not_(needed), free)
        if among is not None:
            query = query.where(blobs.c.sha256.in_(among))
        locked = (await self._connection.execute(query.limit(limit).with_for_update(skip_locked=True))).scalars().all()
        if not locked:
            return ()
        statement = delete(blobs).where(blobs.c.sha256.in_(locked), not_(needed), free).returning(blobs.c.object_path)
        return tuple((await self._connection.execute(statement)).scalars())

    async def known(self, object_paths: Collection[str]) -> frozenset[str]:
        """Those of the paths that are a stored file's."""
        query = select(blobs.c.object_path).where(blobs.c.object_path.in_(object_paths))
        return frozenset((await self._connection.execute(query)).scalars())
