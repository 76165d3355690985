"""Receives one file from object storage into the cache, from where an earlier try was cut off."""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event

from mesh.errors import DomainError, Kind
from node_agent.cache.blobs import BlobStore, hash_file
from node_agent.cache.model import ArtifactFile, ChecksumMismatchError, FileMissingError, StorageUnavailableError
from node_agent.cache.storage import Storage, Stream

log = logging.getLogger(__name__)

_CHECKSUM_ATTEMPTS = 2
_CONNECT_ATTEMPTS = 4
_PAUSE_S = 0.5

Received = Callable[[int], None]


class FetchCancelledError(DomainError):
    """Nobody wants the file any more."""

    kind, reason = Kind.CANCELLED, "CANCELLED"


class Fetch:
    """The fetching of one file. Cancel `run` to end it, between two chunks; what came stays for the next try."""

    def __init__(self, store: BlobStore, storage: Storage, url: str, file: ArtifactFile, received: Received) -> None:
        self._store, self._storage, self._url, self._file, self._received = store, storage, url, file, received
        self._cancelled = Event()

    async def run(self) -> None:
        """Raises ChecksumMismatchError, DiskFullError, StorageUnavailableError."""
        file, partial = self._file, self._store.partial(self._file)
        for _ in range(_CHECKSUM_ATTEMPTS):
            actual = await self._receive(partial)
            if actual == file.sha256:
                await asyncio.to_thread(self._store.keep, file)
                return
            log.warning("%s from %s has SHA-256 %s, not %s", file.path, self._url, actual, file.sha256)
            await asyncio.to_thread(self._store.set_aside, partial)
        raise ChecksumMismatchError(
            f"{file.path} from {self._url} is not the file that was imported: its SHA-256 is {actual}, not "
            f"{file.sha256}; import the model again",
            path=file.path,
            expected=file.sha256,
            actual=actual,
        )

    async def _receive(self, partial: Path) -> str:
        """Appends what is missing; the SHA-256 of the whole."""
        fruitless = 0
        while True:
            size = self._size_of(partial)
            try:
                stream = await self._open(size)
                return await self._appended(partial, size, stream)
            except FileMissingError:
                raise
            except StorageUnavailableError:
                fruitless = 0 if self._size_of(partial) > size else fruitless + 1
                if fruitless == _CONNECT_ATTEMPTS:
                    raise
                await asyncio.sleep(_PAUSE_S * fruitless)

    async def _open(self, offset: int) -> Stream:
        if offset == self._file.size_bytes and offset:
            return lambda: iter(())
        return await self._storage.open(self._url, self._file, offset)

    async def _appended(self, partial: Path, size: int, stream: Stream) -> str:
        thread = asyncio.ensure_future(asyncio.to_thread(self._append, partial, size, stream))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            # Whoever cancels may take the file up at once: the thread lets go of it first.
            self._cancelled.set()
            await asyncio.wait({thread})
            raise

    def _append(self, partial: Path, size: int, stream: Stream) -> str:
        with self._store.typed(partial), partial.open("ab") as target:
            digest = hash_file(partial) if size else hashlib.sha256()
            for chunk in stream():
                if self._cancelled.is_set():
                    raise FetchCancelledError(f"fetching {self._file.path} was cancelled")
                if size > self._file.size_bytes:
                    break  # longer than it may be: wrong already, and no reason to fill the disk
                target.write(chunk)
                target.flush()
                digest.update(chunk)
                size += len(chunk)
                self._received(size)
        return digest.hexdigest()

    def _size_of(self, partial: Path) -> int:
        size = partial.stat().st_size if partial.exists() else 0
        if size > self._file.size_bytes:
            partial.unlink()
            return 0
        return size
