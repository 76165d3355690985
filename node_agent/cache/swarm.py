"""Fetches one file from whoever has its chunks: other nodes first, object storage for what nobody has.

So that many nodes that want a file at once read the storage about once, each chunk has one of them that is to read it
there (rendezvous hashing: Thaler and Ravishankar, 1998); the others wait for it, but not for long.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from mesh.clock import Clock
from mesh.errors import DomainError
from mesh.loops import Wake
from node_agent.cache.model import ArtifactFile, ChecksumMismatchError, FileMissingError, StorageUnavailableError
from node_agent.cache.partial import PartialFile
from node_agent.cache.storage import Storage

log = logging.getLogger(__name__)

PARALLEL = 6
FROM_ONE_NEIGHBOUR = 2
FROM_STORAGE = 3
LOOK_EVERY = timedelta(milliseconds=250)
# Who else there is, is asked of the controller: often at first, so that nodes that start together find each other.
FIND_EVERY_S = 2.0
# Who has what is looked at before the first chunk is read, unless that takes longer.
ACQUAINTED_WITHIN_S = 1.0
# Nodes that are to have a model at the same time begin within so long of each other.
STARTING_S = 3.0
GONE_AFTER_FAILURES = 3
# Without any chunk for so long, a node reads from storage what another was to read.
PATIENCE_S = 5.0
_STORAGE_ATTEMPTS = 4
_CHECKSUM_ATTEMPTS = 2
_PAUSE_S = 0.5


class NeighbourError(Exception):
    """A node did not answer, or does not have what it was asked for."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What a neighbour has of a file; `chunks` when it is not `complete`."""

    complete: bool
    chunks: frozenset[int] = frozenset()

    def has(self, index: int) -> bool:
        return self.complete or index in self.chunks


class Neighbour(Protocol):
    """Another node that may have a file."""

    @property
    def node_id(self) -> str: ...
    async def holding(self, file: ArtifactFile) -> Holding | None:
        """What it has of the file, None for nothing. NeighbourError."""
        ...

    async def read(self, file: ArtifactFile, index: int) -> bytes:
        """One chunk. NeighbourError."""
        ...


class Neighbourhood(Protocol):
    """Where to ask for neighbours."""

    @property
    def node_id(self) -> str:
        """This node."""
        ...

    async def find(self, model_id: str) -> Sequence[Neighbour]:
        """Who may have files of the model; nobody while the controller is away."""
        ...


class Alone:
    """A node without neighbours."""

    node_id = ""

    async def find(self, model_id: str) -> Sequence[Neighbour]:
        return ()


ALONE = Alone()


@dataclass(slots=True)
class _Known:
    """A neighbour as this fetch knows it. One that sent a wrong chunk is not asked again."""

    neighbour: Neighbour
    holding: Holding | None = None
    reading: int = 0
    trusted: bool = True
    failures: int = 0

    @property
    def awaited(self) -> bool:
        """Whether it may be about to fetch the file: it was named for the model, and it answers."""
        return self.trusted and not self.failures

    def has(self, index: int) -> bool:
        """Whether it is known to have the chunk."""
        return self.holding is not None and self.holding.has(index)


@dataclass(slots=True)
class Tally:
    """Bytes by where they came from, and the neighbours that gave wrong ones."""

    from_storage: int = 0
    from_neighbours: int = 0
    wrong: list[str] = field(default_factory=list)

    def __iadd__(self, other: "Tally") -> "Tally":
        self.from_storage += other.from_storage
        self.from_neighbours += other.from_neighbours
        self.wrong += other.wrong
        return self


class Swarm:
    """The fetching of one file in chunks. Cancel `run` to end it; what came stays for the next try."""

    def __init__(
        self,
        partial: PartialFile,
        url: str,
        model_id: str,
        neighbourhood: Neighbourhood,
        received: Callable[[int], None],
        clock: Clock,
        storage: Storage,
    ) -> None:
        self._partial, self._file, self._url, self._model_id = partial, partial.file, url, model_id
        self._neighbourhood, self._received, self._clock, self._storage = neighbourhood, received, clock, storage
        self._known: dict[str, _Known] = {}
        self._under_way: set[int] = set()
        self._reading_storage = self._failures = self._mismatches = self._looks = 0
        self._begun_at = self._progress_at = clock.monotonic()
        self._acquainted, self._changed = asyncio.Event(), Wake()
        self.tally = Tally()

    async def run(self) -> None:
        """Raises ChecksumMismatchError, DiskFullError, StorageUnavailableError."""
        await asyncio.to_thread(self._partial.open)
        self._received(self._partial.received)
        try:
            async with asyncio.TaskGroup() as group:
                scout = group.create_task(self._scout())
                with suppress(TimeoutError):
                    async with asyncio.timeout(ACQUAINTED_WITHIN_S):
                        await self._acquainted.wait()
                workers = [group.create_task(self._work()) for _ in range(PARALLEL)]
                await asyncio.wait(workers)
                scout.cancel()
        except* DomainError as errors:
            raise errors.exceptions[0] from None
        await asyncio.to_thread(self._partial.finish)
        log.info("%s: %s", self._file.path, self.tally)

    async def _scout(self) -> None:
        """Keeps up with who has what."""
        pause, find_at = LOOK_EVERY.total_seconds(), self._clock.monotonic()
        while True:
            now = self._clock.monotonic()
            if now >= find_at:
                pause, find_at = min(2 * pause, FIND_EVERY_S), now + pause
                for each in await self._neighbourhood.find(self._model_id):
                    self._known.setdefault(each.node_id, _Known(each))
            await asyncio.gather(*(self._look(each) for each in self._known.values() if each.trusted))
            self._looks += 1
            self._acquainted.set()
            self._changed.set()
            await asyncio.sleep(LOOK_EVERY.total_seconds())

    async def _look(self, known: _Known) -> None:
        if known.holding is not None and known.holding.complete:
            return
        try:
            known.holding = await known.neighbour.holding(self._file)
            known.failures = 0
        except NeighbourError:
            # A node that is only slow to answer still has what it had.
            known.failures += 1
            known.holding = known.holding if known.failures < GONE_AFTER_FAILURES else None

    async def _work(self) -> None:
        while missing := self._partial.missing:
            choice = self._choose(missing - self._under_way)
            if choice is None:
                await self._changed.wait(LOOK_EVERY)
                continue
            index, known = choice
            self._under_way.add(index)
            try:
                await (self._from_storage(index) if known is None else self._from_neighbour(index, known))
            finally:
                self._under_way.discard(index)
                self._changed.set()

    def _choose(self, free: set[int]) -> tuple[int, _Known | None] | None:
        """A chunk and the neighbour to read it from, or None for storage; nothing when it is better to wait."""
        nobodys = []
        for index in random.sample(sorted(free), len(free)):  # in the same order all nodes would have the same chunks
            holders = [each for each in self._known.values() if each.has(index)]
            idle = [each for each in holders if each.reading < FROM_ONE_NEIGHBOUR]
            if idle:
                return index, min(idle, key=lambda each: (each.reading, random.random()))  # noqa: S311 - no secret
            nobodys += [] if holders else [index]
        # A node that has only just looked around reads little: others may be about to read the same.
        if self._reading_storage >= min(FROM_STORAGE, max(1, self._looks // 2)):
            return None
        if self._clock.monotonic() - self._progress_at > PATIENCE_S and nobodys:
            self._progress_at = self._clock.monotonic()  # one chunk, then it waits again
            return nobodys[0], None
        mine = next((index for index in nobodys if self._is_mine(index)), None)
        return None if mine is None else (mine, None)

    def _is_mine(self, index: int) -> bool:
        """Whether this node is the one that reads the chunk from storage, among those that are fetching the file."""
        soon = self._clock.monotonic() - self._begun_at < STARTING_S
        members = (each for each in self._known.values() if each.holding or (soon and each.awaited))
        fetching = [each.neighbour.node_id for each in members]
        nodes = (self._neighbourhood.node_id, *fetching)
        return max(nodes, key=lambda node_id: self._weight(node_id, index)) == self._neighbourhood.node_id

    def _weight(self, node_id: str, index: int) -> bytes:
        return hashlib.sha256(f"{node_id} {self._file.sha256} {index}".encode()).digest()

    async def _from_neighbour(self, index: int, known: _Known) -> None:
        known.reading += 1
        try:
            content = await known.neighbour.read(self._file, index)
        except NeighbourError as error:
            log.info("%s does not give chunk %d of %s: %s", known.neighbour.node_id, index, self._file.path, error)
            known.holding = None  # the scout asks it again
            return
        finally:
            known.reading -= 1
        if not await asyncio.to_thread(self._partial.write, index, content):
            log.warning("%s gave a wrong chunk %d of %s", known.neighbour.node_id, index, self._file.path)
            known.trusted, known.holding = False, None
            self.tally.wrong.append(known.neighbour.node_id)
            return
        self.tally.from_neighbours += len(content)
        self._advance()

    async def _from_storage(self, index: int) -> None:
        self._reading_storage += 1
        try:
            offset, length = self._file.chunk(index)
            content = await self._storage.read(self._url, self._file, offset, length)
        except FileMissingError:
            raise
        except StorageUnavailableError:
            self._failures += 1
            if self._failures >= _STORAGE_ATTEMPTS:
                raise
            await asyncio.sleep(_PAUSE_S * self._failures)
            return
        finally:
            self._reading_storage -= 1
        if not await asyncio.to_thread(self._partial.write, index, content):
            self._mismatch(index)
            return
        self.tally.from_storage += len(content)
        self._advance()

    def _mismatch(self, index: int) -> None:
        self._mismatches += 1
        log.warning("chunk %d of %s from %s is wrong", index, self._file.path, self._url)
        if self._mismatches >= _CHECKSUM_ATTEMPTS:
            raise ChecksumMismatchError(
                f"{self._file.path} from {self._url} is not what was imported: chunk {index} stays wrong; "
                "import the model again",
                path=self._file.path,
                expected=self._file.sha256,
            )

    def _advance(self) -> None:
        self._failures = 0
        self._progress_at = self._clock.monotonic()
        self._received(self._partial.received)
