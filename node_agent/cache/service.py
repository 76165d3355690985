"""Brings a model's files to this machine: fetched once, verified always, dropped when the space is needed."""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mesh.clock import Clock, SystemClock
from node_agent.cache.blobs import BlobStore
from node_agent.cache.fetch import Fetch
from node_agent.cache.model import Artifact, ArtifactFile, Progress
from node_agent.cache.partial import PartialFile
from node_agent.cache.storage import Storage
from node_agent.cache.swarm import ALONE, Holding, Neighbourhood, Swarm, Tally

# The controller is told of so many models; a machine seldom has more.
MOST_TOLD = 256
# Less than this is sooner read than asked for.
_WORTH_SHARING = 1024 * 1024


class ModelCache:
    """The machine's models. Use from one event loop."""

    def __init__(
        self,
        store: BlobStore,
        neighbourhood: Neighbourhood = ALONE,
        clock: Clock | None = None,
        storage: Storage | None = None,
    ) -> None:
        self._store, self._neighbourhood, self._clock = store, neighbourhood, clock or SystemClock()
        self._storage = storage or Storage()
        self._held: Counter[str] = Counter()
        self._fetching: dict[str, asyncio.Lock] = {}
        self._arriving: dict[str, PartialFile] = {}
        self.tally = Tally()

    def hold(self, artifact: Artifact) -> None:
        """Keeps the model from being dropped until as many releases."""
        self._held.update(_names(artifact))

    def release(self, artifact: Artifact) -> None:
        """Takes one hold back."""
        self._held.subtract(_names(artifact))

    async def obtain(self, artifact: Artifact, progress: Progress, model_id: str = "") -> None:
        """Has every file here and verified; tells the percent. Hold the artifact meanwhile.

        Who else has files of the model is asked by `model_id`.

        Raises ChecksumMismatchError, DiskFullError, StorageUnavailableError, FileNotAllowedError.
        """
        artifact.check()
        total = sum(each.size_bytes for each in artifact.files) or 1
        before = 0
        for file in artifact.files:
            # One lock a file: two models that share it, or two replicas of one model, fetch it once.
            async with self._fetching.setdefault(file.sha256, asyncio.Lock()):
                if not await asyncio.to_thread(self._store.has, file):
                    part = _part(progress, before, total)
                    await asyncio.to_thread(self._store.make_room_for, file, frozenset(+self._held))
                    if file.has_chunks and file.size_bytes >= _WORTH_SHARING:
                        await self._gather(artifact.url, file, model_id, part)
                    else:
                        await self._fetch(artifact.url, file, part)
            before += file.size_bytes
            progress(before * 100 // total)

    async def lay_out(self, artifact: Artifact) -> Path:
        """The folder with the model's files, which obtain() brought. Raises DiskFullError."""
        return await asyncio.to_thread(self._store.lay_out, artifact)

    def folder(self, artifact: Artifact) -> Path:
        """Where lay_out() puts the model."""
        return self._store.folder(artifact)

    async def models(self) -> list[str]:
        """The digests of whole models that are here: what could be served without fetching it."""
        return await asyncio.to_thread(self._store.models, MOST_TOLD)

    def holding(self, sha256: str) -> Holding | None:
        """What is here of a file, for other nodes; None for nothing."""
        arriving = self._arriving.get(sha256)
        if arriving is not None:
            return Holding(complete=False, chunks=arriving.present)
        return Holding(complete=True) if self._store.blob(sha256).exists() else None

    def reader(self, sha256: str, offset: int, length: int) -> Callable[[], bytes] | None:
        """Reads bytes of a file; blocks when called. None when not all of them are here."""
        arriving = self._arriving.get(sha256)
        if arriving is not None:
            return partial(arriving.read, offset, length) if arriving.has(offset, length) else None
        return partial(self._store.read, sha256, offset, length)

    async def _gather(self, url: str, file: ArtifactFile, model_id: str, progress: Progress) -> None:
        arriving = self._arriving[file.sha256] = PartialFile(self._store, file)
        swarm = Swarm(arriving, url, model_id, self._neighbourhood, progress, self._clock, self._storage)
        try:
            await swarm.run()
        finally:
            self.tally += swarm.tally
            del self._arriving[file.sha256]

    async def _fetch(self, url: str, file: ArtifactFile, progress: Progress) -> None:
        loop = asyncio.get_running_loop()
        await Fetch(self._store, self._storage, url, file, lambda size: _tell(loop, progress, size)).run()


def _names(artifact: Artifact) -> set[str]:
    return {artifact.digest, *(each.sha256 for each in artifact.files)}


def _part(progress: Progress, before: int, total: int) -> Progress:
    return lambda size: progress((before + size) * 100 // total)


def _tell(loop: asyncio.AbstractEventLoop, progress: Progress, size: int) -> None:
    loop.call_soon_threadsafe(progress, size)
