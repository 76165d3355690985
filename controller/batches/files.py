"""What is done with files of batches, and what that needs from storage."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol

from controller.batches.model import MIB, File, FileId, FileInUseError, FileTooLargeError, Purpose, path_of
from mesh.clock import Clock
from mesh.errors import FieldViolation, InvalidRequestError
from mesh.identity import SYSTEM, Caller, new_id
from mesh.sql.paging import Page, PageRequest

# A client that sends nothing for so long is gone.
LONGEST_SILENCE_S = 60.0
# Objects that nobody knows are what a crash left.
ORPHAN_AGE = timedelta(hours=6)


class Sink(Protocol):
    async def write(self, content: bytes) -> None: ...
    async def close(self) -> object: ...


class Objects(Protocol):
    """Object storage."""

    def create(self, path: str, size_bytes: int) -> Sink: ...
    async def read(self, path: str, start: int, length: int) -> bytes: ...
    async def remove(self, folder: str) -> None: ...
    async def paths(self, folder: str) -> dict[str, datetime]: ...


class FileStore(Protocol):
    async def get(self, file_id: str, caller: Caller, *, lock: bool = False) -> File: ...
    async def page(self, caller: Caller, page: PageRequest, purpose: Purpose | None, after: str) -> Page[File]: ...
    async def add(self, file: File) -> None: ...
    async def remove(self, file_id: str) -> None: ...
    async def known_among(self, file_ids: frozenset[str]) -> frozenset[str]: ...


class Readers(Protocol):
    async def working_at(self, file_id: str) -> str: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def batch_files(self) -> FileStore: ...
    @property
    def batches(self) -> Readers: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Files:
    """Files of organisations, at most so long each."""

    def __init__(self, unit_of_work: UnitOfWork, objects: Objects, clock: Clock, most_bytes: int) -> None:
        self._unit_of_work = unit_of_work
        self._objects = objects
        self._clock = clock
        self._most_bytes = most_bytes

    async def upload(self, caller: Caller, filename: str, purpose: Purpose, content: AsyncIterator[bytes]) -> File:
        """Keeps the bytes as they come; a part of them is in memory, never more. FileTooLargeError."""
        if purpose is not Purpose.BATCH:
            raise InvalidRequestError(FieldViolation("header.purpose", "only files for batches can be uploaded"))
        file_id = FileId(new_id("file"))
        try:
            size = await self._store(file_id, content)
            file = File(file_id, caller.org_id, caller.user_id, filename, purpose, size, self._clock.now())
            async with self._unit_of_work(caller) as work:
                await work.batch_files.add(file)
                await work.commit()
        except BaseException:
            await asyncio.shield(self._objects.remove(path_of(file_id)))
            raise
        return file

    async def page(self, caller: Caller, page: PageRequest, purpose: Purpose | None, after: str = "") -> Page[File]:
        """The files that the caller sees, newest first; `after` is the id of one to begin behind."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.batch_files.page(caller, page, purpose, after)

    async def get(self, caller: Caller, file_id: str) -> File:
        """One of them."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.batch_files.get(file_id, caller)

    async def delete(self, caller: Caller, file_id: str) -> None:
        """Forgets the file and its bytes. FileInUseError while a batch works at it."""
        async with self._unit_of_work(caller) as work:
            file = await work.batch_files.get(file_id, caller, lock=True)
            if batch_id := await work.batches.working_at(file_id):
                raise FileInUseError(file_id, batch_id)
            await work.batch_files.remove(file_id)
            await work.commit()
        await self._objects.remove(file.path)

    async def read(self, caller: Caller, file_id: str) -> AsyncIterator[bytes]:
        """Its bytes, in pieces of at most 1 MiB."""
        file = await self.get(caller, file_id)
        async for piece in pieces(self._objects, file):
            yield piece

    async def keep_house(self) -> timedelta | None:
        """Removes bytes that no file owns: what a crash left of an upload or of a batch's end."""
        old = self._clock.now() - ORPHAN_AGE
        found = await self._objects.paths("batch-files")
        ids = {path.rpartition("/")[2]: path for path, changed in found.items() if changed < old}
        if not ids:
            return None
        async with self._unit_of_work.reading(SYSTEM) as work:
            known = await work.batch_files.known_among(frozenset(ids))
        for file_id in ids.keys() - known:
            await self._objects.remove(ids[file_id])
        return None

    async def _store(self, file_id: FileId, content: AsyncIterator[bytes]) -> int:
        sink, size, pieces_of = self._objects.create(path_of(file_id), self._most_bytes), 0, aiter(content)
        try:
            while True:
                async with asyncio.timeout(LONGEST_SILENCE_S):
                    piece = await anext(pieces_of, b"")
                if not piece:
                    return size
                size += len(piece)
                if size > self._most_bytes:
                    raise FileTooLargeError(self._most_bytes)
                await sink.write(piece)
        finally:
            # Also what failed is completed, so that the storage keeps no parts of it that nobody can list and remove.
            await sink.close()


async def pieces(objects: Objects, file: File) -> AsyncIterator[bytes]:
    """The bytes of a file."""
    for start in range(0, file.size_bytes, MIB):
        yield await objects.read(file.path, start, min(MIB, file.size_bytes - start))
