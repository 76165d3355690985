"""The shelf: files in object storage by what is in them, each once, as long as a revision or an import needs it."""

import logging
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol

from controller.models.model import BLOBS, ModelFile, StorageUnavailableError
from controller.models.objects import HashingSink
from controller.models.receive import Sink
from mesh.errors import UnavailableError
from mesh.identity import SYSTEM, Caller, new_id

log = logging.getLogger(__name__)

# Longer than any import takes; what a controller that died has pinned is free after that.
PATIENCE = timedelta(days=1)
BATCH = 200


class BlobStore(Protocol):
    async def pin(self, file: ModelFile, until: datetime) -> bool: ...
    async def add(self, file: ModelFile, object_path: str, until: datetime) -> bool: ...
    async def unpin(self, sha256s: Collection[str], until: datetime) -> None: ...
    async def collect(self, limit: int, among: Collection[str] | None = None) -> tuple[str, ...]: ...
    async def known(self, object_paths: Collection[str]) -> frozenset[str]: ...
    async def deadline(self, patience: timedelta) -> datetime: ...


class Work(Protocol):
    @property
    def blobs(self) -> BlobStore: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Objects(Protocol):
    def create(self, path: str, size_bytes: int) -> Sink: ...
    async def remove(self, folder: str) -> None: ...


class Placing:
    """The files of one import on their way to the shelf. What it relied on is let go at the end, however that comes."""

    def __init__(self, unit_of_work: UnitOfWork, objects: Objects) -> None:
        self._unit_of_work = unit_of_work
        self._objects = objects
        self._until: datetime | None = None
        self._mine: dict[str, str] = {}
        self._pinned: set[str] = set()

    async def open(self, file: ModelFile) -> Sink:
        """Where the file's bytes go: to a new object, or nowhere when they are stored already."""
        if await self._is_stored(file):
            return HashingSink()
        folder = f"{BLOBS}/{new_id('blob')}"
        self._mine[file.sha256] = folder
        return self._objects.create(f"{folder}/{file.sha256}", file.size_bytes)

    async def keep(self, file: ModelFile) -> None:
        """The bytes were what they should be: the object is the one of that content from now on."""
        folder = self._mine.get(file.sha256)
        if folder is None:
            return
        until = await self._deadline()
        async with self._unit_of_work(SYSTEM) as work:
            kept = await work.blobs.add(file, f"{folder}/{file.sha256}", until)
            await work.commit()
        self._pinned.add(file.sha256)
        del self._mine[file.sha256]
        if not kept:
            await self._objects.remove(folder)

    async def end(self) -> None:
        """Lets go of every file; what nobody needs then is removed. What cannot be now is swept later."""
        try:
            for folder in self._mine.values():
                await self._objects.remove(folder)
            if self._until is None or not self._pinned:
                return
            async with self._unit_of_work(SYSTEM) as work:
                await work.blobs.unpin(self._pinned, self._until)
                await work.commit()
            await collect(self._unit_of_work, self._objects, self._pinned)
        except (UnavailableError, StorageUnavailableError) as error:
            log.warning("an import leaves files to the sweep: %s", error)

    async def _is_stored(self, file: ModelFile) -> bool:
        if file.sha256 in self._pinned:
            return True
        until = await self._deadline()
        async with self._unit_of_work(SYSTEM) as work:
            stored = await work.blobs.pin(file, until)
            await work.commit()
        if stored:
            self._pinned.add(file.sha256)
        return stored

    async def _deadline(self) -> datetime:
        if self._until is None:
            async with self._unit_of_work(SYSTEM) as work:
                self._until = await work.blobs.deadline(PATIENCE)
        return self._until


async def collect(unit_of_work: UnitOfWork, objects: Objects, among: Collection[str] | None = None) -> bool:
    """Removes files that nothing needs, first from the table and then from storage; says whether there may be more.

    What is left behind when this ends in between belongs to no row and is swept by its age.
    """
    async with unit_of_work(SYSTEM) as work:
        paths = await work.blobs.collect(BATCH, among)
        await work.commit()
    for path in paths:
        await objects.remove(path.rpartition("/")[0] if path.startswith(f"{BLOBS}/") else path)
    return len(paths) == BATCH
