"""The loop that works at batches: claims one by a lease, works at it for a turn, and gives it back.

Every answer is kept as soon as it is there, in a transaction that names the lease: whoever goes on after a crash asks
only what has no answer, and each request is once in the files, which are written in the end.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from controller.batches import lines
from controller.batches.asking import BUSY, Pace, Reply, Tokens, first_of
from controller.batches.files import Objects, Sink, pieces
from controller.batches.model import Batch, BatchId, File, FileId, Line, LineFault, Purpose, Status, path_of
from mesh.clock import Clock
from mesh.errors import DomainError, Kind
from mesh.identity import SYSTEM, Caller, CallerKind, new_id
from mesh.loops import Backoff, attempt

log = logging.getLogger(__name__)

POLL = timedelta(seconds=1)
WRITTEN_AT_ONCE = 500
# An engine's own error is tried so often; what only says "not now" is, until the batch's time is up.
MOST_TRIES = 3
SERVER_ERROR = 500


class LeaseLostError(DomainError):
    """Somebody else works at the batch now."""

    kind, reason = Kind.ABORTED, "CONFLICT"


@dataclass(frozen=True, slots=True)
class Rules:
    """How a worker works. The lease must outlast a few looks; after a turn another batch has its own."""

    lease: timedelta = timedelta(seconds=15)
    look: timedelta = timedelta(seconds=1)
    turn: timedelta = timedelta(seconds=10)
    most_open: int = 8
    rest: Backoff = field(default_factory=lambda: Backoff(timedelta(seconds=1), timedelta(seconds=30)))


class WorkerStore(Protocol):
    async def now(self) -> datetime: ...
    async def claim(self, lease_token: str, lease: timedelta) -> Batch | None: ...
    async def held(self, batch_id: BatchId, lease_token: str) -> Batch | None: ...
    async def keep(self, lease_token: str, lease: timedelta) -> None: ...
    async def rest(self, lease_token: str, pause: timedelta) -> None: ...
    async def save(self, batch: Batch) -> None: ...
    async def add_lines(self, batch: Batch, found: Sequence[Line]) -> None: ...
    async def open_lines(self, batch_id: BatchId, limit: int) -> tuple[Line, ...]: ...
    async def answer(self, batch_id: BatchId, given: Iterable[Line]) -> None: ...
    async def counts(self, batch_id: BatchId) -> tuple[int, int]: ...
    async def lines_from(self, batch_id: BatchId, number: int, limit: int) -> tuple[Line, ...]: ...
    async def remove_lines(self, batch_id: BatchId) -> None: ...


class FileStore(Protocol):
    async def get(self, file_id: str, caller: Caller, *, lock: bool = False) -> File: ...
    async def add(self, file: File) -> None: ...


class Work(Protocol):
    @property
    def batches(self) -> WorkerStore: ...
    @property
    def batch_files(self) -> FileStore: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Asker(Protocol):
    async def ask(self, endpoint: str, body: bytes, token: str) -> Reply: ...


class BatchWorker:
    """Works at one batch at a time; any number of workers, in any number of controllers, share them."""

    def __init__(
        self, unit_of_work: UnitOfWork, objects: Objects, gateway: Asker, tokens: Tokens, clock: Clock, rules: Rules
    ) -> None:
        self.unit_of_work = unit_of_work
        self.objects = objects
        self.gateway = gateway
        self.tokens = tokens
        self.clock = clock
        self.rules = rules

    async def step(self) -> timedelta | None:
        """One turn at one batch; comes back at once when there was one."""
        lease_token = new_id("lease")
        async with self.unit_of_work(SYSTEM) as work:
            batch = await work.batches.claim(lease_token, self.rules.lease)
            await work.commit()
        if batch is None:
            return None
        turn = _Turn(self, batch, lease_token)
        try:
            await turn.take()
        except asyncio.CancelledError:
            # Whoever comes next need not wait for the lease to end.
            await attempt(turn.give_back(timedelta()))
            raise
        return timedelta()


class _Turn:
    """One worker's turn at one batch."""

    def __init__(self, worker: BatchWorker, batch: Batch, lease_token: str) -> None:
        self._worker = worker
        self._batch = batch
        self._lease_token = lease_token
        self._pace = Pace(worker.rules.most_open)
        self._refused = 0
        self._rest_s = 0.0

    async def take(self) -> None:
        """Does what is next, as long as the turn lasts, and gives the batch back."""
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch())
                await self._next()
                watching.cancel()
        except* LeaseLostError as lost:
            log.info("%s", lost.exceptions[0])
        # Whose lease is lost gives nothing back.
        pause = timedelta()
        if self._refused:
            pause = max(self._worker.rules.rest.pause(self._refused), timedelta(seconds=self._rest_s))
        await self.give_back(pause)

    async def give_back(self, pause: timedelta) -> None:
        """Lets others work at it, after a pause."""
        async with self._worker.unit_of_work(SYSTEM) as work:
            await work.batches.rest(self._lease_token, pause)
            await work.commit()

    async def _next(self) -> None:
        if self._batch.status is Status.VALIDATING:
            await self._validate()
        elif self._goes_on:
            await self._ask()
        else:
            await self._write()

    async def _watch(self) -> None:
        """Keeps the lease, counts, and ends the turn when the batch was cancelled or its time is up."""
        while True:
            await asyncio.sleep(self._worker.rules.look.total_seconds())
            async with self._held() as (work, batch):
                if batch.status is Status.IN_PROGRESS:
                    await work.batches.save(batch.counted(*await work.batches.counts(batch.batch_id), batch.changed_at))
                await work.batches.keep(self._lease_token, self._worker.rules.lease)
            self._batch = batch

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[tuple[Work, Batch]]:
        """A transaction on the batch as it is; committed at the block's end. LeaseLostError."""
        async with self._worker.unit_of_work(SYSTEM) as work:
            batch = await work.batches.held(self._batch.batch_id, self._lease_token)
            if batch is None:
                raise LeaseLostError(f"{self._batch.batch_id} is somebody else's now")
            yield work, batch
            await work.commit()

    async def _validate(self) -> None:
        """Reads the whole file; then its requests are known, or what is wrong with it."""
        reader = lines.Reader(self._batch.endpoint)
        try:
            async with self._worker.unit_of_work.reading(SYSTEM) as work:
                file = await work.batch_files.get(self._batch.input_file_id, SYSTEM)
        except DomainError as gone:
            reader.faults.append(LineFault("file_not_found", gone.message, "input_file_id"))
        else:
            async for piece in pieces(self._worker.objects, file):
                await asyncio.to_thread(reader.feed, piece)
            await asyncio.to_thread(reader.finish)
        now = self._worker.clock.now()
        async with self._held() as (work, batch):
            if batch.status is not Status.VALIDATING:
                return
            if reader.faults:
                await work.batches.save(batch.refuse(tuple(reader.faults), now))
                return
            await work.batches.add_lines(batch, reader.lines)
            await work.batches.save(batch.begin(len(reader.lines), now))

    async def _ask(self) -> None:
        """Asks what has no answer, until the turn is over or the gateway says to wait."""
        clock, until = self._worker.clock, self._worker.clock.now() + self._worker.rules.turn
        try:
            owner = Caller(CallerKind.USER, self._batch.user_id, self._batch.org_id)
            token = await self._worker.tokens.of(owner, self._batch.token_id)
        except DomainError as gone:
            if gone.kind is not Kind.NOT_FOUND:
                raise
            log.warning("%s ends: %s", self._batch.batch_id, gone.message)
            await self._save(lambda batch: batch.cancel(clock.now()))
            return
        async with self._worker.unit_of_work.reading(SYSTEM) as work:
            waiting = list(await work.batches.open_lines(self._batch.batch_id, WRITTEN_AT_ONCE))
        if not waiting:
            await self._save(lambda batch: batch.finalize(clock.now()))
            return
        waiting.reverse()
        await self._ask_all(waiting, token, until)

    async def _ask_all(self, waiting: list[Line], token: str, until: datetime) -> None:
        asked = set[asyncio.Task[None]]()
        try:
            while (waiting or asked) and self._goes_on:
                if self._refused or self._worker.clock.now() >= until:
                    waiting.clear()
                while waiting and len(asked) < self._pace.room:
                    asked.add(asyncio.create_task(self._ask_one(waiting.pop(), token)))
                if asked:
                    asked = await first_of(asked, self._worker.rules.look)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    @property
    def _goes_on(self) -> bool:
        """Whether it was neither cancelled nor is its time up: then what is open is no longer waited for."""
        return self._batch.status is Status.IN_PROGRESS and self._worker.clock.now() < self._batch.expires_at

    async def _ask_one(self, line: Line, token: str) -> None:
        raw = await self._worker.objects.read(path_of(self._batch.input_file_id), line.offset, line.length)
        reply = await self._worker.gateway.ask(self._batch.endpoint, lines.body_of(raw), token)
        tried = replace(line, tries=line.tries + 1)
        if reply.status in BUSY:
            self._pace.refused()
            self._refused = tried.tries
            self._rest_s = max(self._rest_s, reply.retry_after_s)
        elif reply.status < SERVER_ERROR or tried.tries >= MOST_TRIES:
            self._pace.answered()
            said = lines.answered(self._name(line), line.custom_id, reply.status, reply.request_id, reply.body)
            tried = replace(tried, answer=said, ok=reply.status < 400)
        async with self._held() as (work, _):
            await work.batches.answer(self._batch.batch_id, [tried])

    async def _save(self, change: "Change") -> None:
        async with self._held() as (work, batch):
            await work.batches.save(change(batch.counted(*await work.batches.counts(batch.batch_id), batch.changed_at)))

    async def _write(self) -> None:
        """Writes the files of answers, and with the batch's last state they are there."""
        writers = {True: _Writer(self._worker.objects), False: _Writer(self._worker.objects)}
        why = _UNANSWERED.get(
            self._batch.status, ("batch_expired", "the batch's time was up before this request's turn")
        )
        number, counts = 0, {True: 0, False: 0}
        try:
            while some := await self._lines_behind(number):
                number = some[-1].number
                for line in some:
                    said = line.answer or lines.unanswered(self._name(line), line.custom_id, *why)
                    counts[line.ok] += bool(line.answer)
                    await writers[line.ok].write(said)
        finally:
            sizes = {ok: await writer.close() for ok, writer in writers.items()}
        now = self._worker.clock.now()
        async with self._held() as (work, batch):
            written = {ok: self._file(ok, writers[ok].file_id, sizes[ok], now) for ok in (True, False) if sizes[ok]}
            for file in written.values():
                await work.batch_files.add(file)
            named = {ok: str(file.file_id) for ok, file in written.items()}
            ended = batch.counted(counts[True], counts[False], now).end(named.get(True, ""), named.get(False, ""), now)
            await work.batches.save(ended)
            await work.batches.remove_lines(batch.batch_id)

    async def _lines_behind(self, number: int) -> tuple[Line, ...]:
        async with self._worker.unit_of_work.reading(SYSTEM) as work:
            return await work.batches.lines_from(self._batch.batch_id, number, WRITTEN_AT_ONCE)

    def _file(self, ok: bool, file_id: FileId, size: int, now: datetime) -> File:
        name = f"{self._batch.batch_id}_{'output' if ok else 'error'}.jsonl"
        return File(file_id, self._batch.org_id, self._batch.user_id, name, Purpose.BATCH_OUTPUT, size, now)

    def _name(self, line: Line) -> str:
        return f"batch_req_{self._batch.batch_id.removeprefix('batch-')}_{line.number}"


class Change(Protocol):
    def __call__(self, batch: Batch) -> Batch: ...


class _Writer:
    """A file of answers that is made with its first line."""

    def __init__(self, objects: Objects) -> None:
        self.file_id = FileId(new_id("file"))
        self._objects = objects
        self._sink: Sink | None = None
        self._size = 0

    async def write(self, line: str) -> None:
        if self._sink is None:
            self._sink = self._objects.create(path_of(self.file_id), 0)
        content = line.encode() + b"\n"
        self._size += len(content)
        await self._sink.write(content)

    async def close(self) -> int:
        """How many bytes it has; 0 when there is no file."""
        if self._sink is not None:
            await self._sink.close()
        return self._size


_UNANSWERED = {
    Status.CANCELLING: ("batch_cancelled", "the batch was cancelled before this request's turn"),
}
