"""The shelf: files in object storage by what is in them, each once, as long as a revision or an import needs it."""

import logging
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
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
    async def pin(self, file: ModelFile, pin: str, patience: timedelta) -> bool: ...
    async def add(self, file: ModelFile, object_path: str, pin: str, patience: timedelta) -> None: ...
    async def unpin(self, sha256s: Collection[str], pin: str) -> None: ...
    async def collect(self, limit: int, among: Collection[str] | None = None) -> tuple[str, ...]: ...
    async def known(self, object_paths: Collection[str]) -> frozenset[str]: ...


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
        self._pin = new_id("import")
        self._paths: dict[str, str] = {}
        # Noted before the table is asked: an import may be cancelled while it waits for the answer.
        self._touched: set[str] = set()
        self._stored: set[str] = set()

    async def open(self, file: ModelFile) -> Sink:
        """Where the file's bytes go: to a new object, or nowhere when they are stored already."""
        if await self._is_stored(file):
            return HashingSink(file.size_bytes)
        path = self._paths[file.sha256] = f"{BLOBS}/{new_id('blob')}/{file.sha256}"
        return self._objects.create(path, file.size_bytes)

    async def keep(self, file: ModelFile) -> None:
        """The bytes were what they should be: the object is the one of that content from now on."""
        path = self._paths.get(file.sha256)
        if path is None or file.sha256 in self._stored:
            return
        async with self._unit_of_work(SYSTEM) as work:
            await work.blobs.add(file, path, self._pin, PATIENCE)
            await work.commit()
        self._stored.add(file.sha256)

    async def end(self) -> None:
        """Lets go of every file; what nobody needs then is removed. What cannot be now is swept later."""
        try:
            if self._touched:
                async with self._unit_of_work(SYSTEM) as work:
                    await work.blobs.unpin(self._touched, self._pin)
                    await work.commit()
                await collect(self._unit_of_work, self._objects, self._touched)
            await self._remove_unknown()
        except (UnavailableError, StorageUnavailableError) as error:
            log.warning("an import leaves files to the sweep: %s", error)

    async def _remove_unknown(self) -> None:
        """Objects of this import that are no stored file's: it failed before, or somebody else was faster."""
        if not self._paths:
            return
        async with self._unit_of_work(SYSTEM) as work:
            known = await work.blobs.known(list(self._paths.values()))
        for path in self._paths.values():
            if path not in known:
                await self._objects.remove(path.rpartition("/")[0])

    async def _is_stored(self, file: ModelFile) -> bool:
        if file.sha256 in self._stored:
            return True
        self._touched.add(file.sha256)
        async with self._unit_of_work(SYSTEM) as work:
            stored = await work.blobs.pin(file, self._pin, PATIENCE)
            await work.commit()
        if stored:
            self._stored.add(file.sha256)
        return stored


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
