"""Brings a model's files to this machine: fetched once, verified always, dropped when the space is needed."""

import asyncio
from collections import Counter
from pathlib import Path

from node_agent.cache.blobs import BlobStore
from node_agent.cache.fetch import Fetch
from node_agent.cache.model import Artifact, ArtifactFile, Progress


class ModelCache:
    """The machine's models. Use from one event loop."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._held: Counter[str] = Counter()
        self._fetching: dict[str, asyncio.Lock] = {}

    def hold(self, artifact: Artifact) -> None:
        """Keeps the model from being dropped until as many releases."""
        self._held.update(_names(artifact))

    def release(self, artifact: Artifact) -> None:
        """Takes one hold back."""
        self._held.subtract(_names(artifact))

    async def obtain(self, artifact: Artifact, progress: Progress) -> None:
        """Has every file here and verified; tells the percent. Hold the artifact meanwhile.

        Raises ChecksumMismatchError, DiskFullError, StorageUnavailableError, FileNotAllowedError.
        """
        artifact.check()
        total = sum(each.size_bytes for each in artifact.files) or 1
        before = 0
        for file in artifact.files:
            # One lock a file: two models that share it, or two replicas of one model, fetch it once.
            async with self._fetching.setdefault(file.sha256, asyncio.Lock()):
                if not await asyncio.to_thread(self._store.has, file):
                    await self._fetch(artifact.url, file, _part(progress, before, total))
            before += file.size_bytes
            progress(before * 100 // total)

    async def lay_out(self, artifact: Artifact) -> Path:
        """The folder with the model's files, which obtain() brought. Raises DiskFullError."""
        return await asyncio.to_thread(self._store.lay_out, artifact)

    def folder(self, artifact: Artifact) -> Path:
        """Where lay_out() puts the model."""
        return self._store.folder(artifact)

    async def _fetch(self, url: str, file: ArtifactFile, progress: Progress) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._store.make_room_for, file, frozenset(+self._held))
        fetch = Fetch(self._store, url, file, lambda size: _tell(loop, progress, size))
        thread = asyncio.ensure_future(asyncio.to_thread(fetch.run))
        try:
            await asyncio.shield(thread)
        except asyncio.CancelledError:
            # The file's lock is given back only when the thread has let go of the file.
            fetch.cancel()
            await asyncio.wait({thread})
            raise


def _names(artifact: Artifact) -> set[str]:
    return {artifact.digest, *(each.sha256 for each in artifact.files)}


def _part(progress: Progress, before: int, total: int) -> Progress:
    return lambda size: progress((before + size) * 100 // total)


def _tell(loop: asyncio.AbstractEventLoop, progress: Progress, size: int) -> None:
    loop.call_soon_threadsafe(progress, size)
