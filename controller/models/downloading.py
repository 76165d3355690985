"""The loop that works at downloads: claims one by a lease, brings its files, and hands them to the registry."""

import asyncio
import logging
import shutil
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from controller.models.download import (
    MOST_SKIPPED_SHOWN,
    DamagedFileError,
    Download,
    DownloadChanged,
    DownloadState,
    Progress,
    Repository,
    TemporaryError,
    Wanted,
)
from controller.models.downloads import Seal, seal_context
from controller.models.hub import Hub, check_space
from controller.models.model import MIB, Framework, ModelFile, ModelId, StorageUnavailableError, Task, Upload
from controller.models.selection import Selection, select
from controller.models.service import Models
from mesh.clock import Clock
from mesh.errors import DomainError, Kind, UnavailableError
from mesh.identity import SYSTEM, Caller, CallerKind, new_id
from mesh.loops import Backoff, attempt

log = logging.getLogger(__name__)

POLL = timedelta(seconds=2)
STAGED_FOR = timedelta(days=1)
# What a try may fail with and the next one need not.
_TEMPORARY = (TemporaryError, StorageUnavailableError, UnavailableError)


class LeaseLostError(DomainError):
    """The download was cancelled, or somebody else works at it."""

    kind, reason = Kind.ABORTED, "CONFLICT"


@dataclass(frozen=True, slots=True)
class Rules:
    """How a worker works. The lease must outlast a few reports; what fails is tried again after `backoff`."""

    lease: timedelta = timedelta(seconds=15)
    report: timedelta = timedelta(seconds=1)
    backoff: Backoff = field(default_factory=lambda: Backoff(timedelta(seconds=4), timedelta(minutes=1)))
    rate_over: timedelta = timedelta(seconds=10)


class WorkerStore(Protocol):
    async def now(self) -> datetime: ...
    async def claim(self, lease_token: str, lease: timedelta) -> Download | None: ...
    async def save_leased(self, download: Download, lease_token: str, lease: timedelta | None) -> bool: ...
    async def release(self, lease_token: str) -> None: ...
    async def unfinished_among(self, download_ids: frozenset[str], since: datetime) -> frozenset[str]: ...


class Work(Protocol):
    @property
    def downloads(self) -> WorkerStore: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class DownloadWorker:
    """Works at one download at a time; any number of workers, in any number of controllers, share the jobs."""

    def __init__(
        self, unit_of_work: UnitOfWork, models: Models, hub: Hub, seal: Seal, clock: Clock, staging: Path, rules: Rules
    ) -> None:
        self._unit_of_work = unit_of_work
        self.models = models
        self.hub = hub
        self.seal = seal
        self.clock = clock
        self.staging = staging
        self.rules = rules

    async def step(self) -> timedelta | None:
        """Works at one download, until it has ended or must be tried again; comes back at once when there was one."""
        lease_token = new_id("lease")
        async with self._unit_of_work(SYSTEM) as work:
            download = await work.downloads.claim(lease_token, self.rules.lease)
            await work.commit()
        if download is None:
            await self._clean()
            return None
        job = _Job(self, download, lease_token)
        try:
            await job.run()
        except asyncio.CancelledError:
            # Whoever comes next need not wait for the lease to end.
            await attempt(self._release(lease_token))
            raise
        return timedelta()

    async def _release(self, lease_token: str) -> None:
        async with self._unit_of_work(SYSTEM) as work:
            await work.downloads.release(lease_token)
            await work.commit()

    async def _clean(self) -> None:
        """Removes the files of downloads that ended a day ago, or are not known."""
        staged = frozenset(path.name for path in self.staging.iterdir()) if self.staging.exists() else frozenset()
        if not staged:
            return
        async with self._unit_of_work.reading(SYSTEM) as work:
            kept = await work.downloads.unfinished_among(staged, await work.downloads.now() - STAGED_FOR)
        for name in staged - kept:
            await asyncio.to_thread(shutil.rmtree, self.staging / name, ignore_errors=True)

    async def save(self, job: "_Job", download: Download, *, tell: bool, keep: bool = True) -> None:
        """Stores how the download stands. LeaseLostError when it is this worker's no more."""
        async with self._unit_of_work(SYSTEM) as work:
            lease = self.rules.lease if keep else None
            if not await work.downloads.save_leased(download, job.lease_token, lease):
                raise LeaseLostError(f"{download.download_id} is somebody else's now, or was cancelled")
            await work.commit(*([DownloadChanged(download, await work.downloads.now())] if tell else []))


class _Job:
    """One try at one download."""

    def __init__(self, worker: DownloadWorker, download: Download, lease_token: str) -> None:
        self._worker = worker
        self.lease_token = lease_token
        self._download = download
        self._meter = _Meter(worker.clock, worker.rules.rate_over)
        self._folder = worker.staging / download.download_id
        self._told = 0

    async def run(self) -> None:
        """Until it has ended or must be tried again."""
        try:
            async with asyncio.TaskGroup() as group:
                reports = group.create_task(self._report())
                model_id = await self._bring()
                reports.cancel()
        except* LeaseLostError as lost:
            log.info("%s", lost.exceptions[0])
        except* DomainError as group_of_errors:
            await self._failed(_first(group_of_errors))
        else:
            now = self._worker.clock.now()
            await self._end(replace(self._state(), state=DownloadState.STORING).succeed(model_id, now))

    async def _bring(self) -> ModelId:
        download, worker = self._download, self._worker
        token = self._token()
        repository = await worker.hub.describe(download.repo, download.revision, token)
        selection = select(repository, _wanted(download))
        self._download = replace(
            download,
            state=DownloadState.DOWNLOADING,
            commit=repository.commit,
            license=repository.license,
            skipped_files=selection.skipped[:MOST_SKIPPED_SHOWN],
            error="",
            error_reason="",
        )
        self._meter.total(selection)
        await self._tell()
        files = await self._fetch(repository, selection, token)
        self._download = replace(self._download, state=DownloadState.STORING)
        await self._tell()
        upload = _upload(self._download, repository, files)
        imported = await worker.models.import_model(_caller(download), upload, _contents(self._folder, upload))
        return imported.model.model_id

    async def _fetch(self, repository: Repository, selection: Selection, token: str) -> list[ModelFile]:
        self._folder.mkdir(parents=True, exist_ok=True)
        staged = {file.path: self._folder / f"{number}.part" for number, file in enumerate(selection.files)}
        here = {path: target.stat().st_size for path, target in staged.items() if target.exists()}
        self._meter.found(sum(here.values()))
        check_space(self._folder, selection.size_bytes - sum(here.values()))
        files = []
        for file in selection.files:
            target = staged[file.path]
            try:
                sha256 = await self._worker.hub.fetch(repository, file, target, token, self._meter.received)
            except DamagedFileError:
                self._meter.lost(file.size_bytes)
                raise
            files.append(ModelFile(file.stored_as or file.path, file.size_bytes, sha256))
            self._meter.file_done()
        return files

    async def _report(self) -> None:
        """Keeps the lease and says how far it is; an event for each tenth."""
        while True:
            await asyncio.sleep(self._worker.rules.report.total_seconds())
            state = self._state()
            tell = state.progress.tenths != self._told
            self._told = state.progress.tenths
            await self._worker.save(self, state, tell=tell)

    async def _tell(self) -> None:
        await self._worker.save(self, self._state(), tell=True)

    def _state(self) -> Download:
        return replace(self._download, progress=self._meter.progress(), changed_at=self._worker.clock.now())

    async def _failed(self, error: DomainError) -> None:
        rules, state = self._worker.rules, self._state()
        log.warning("download %s of %s: %s", state.download_id, state.repo, error.message)
        now = self._worker.clock.now()
        if not isinstance(error, _TEMPORARY):
            await self._end(state.fail(error, now))
            return
        pause = max(rules.backoff.pause(state.failures + 1), getattr(error, "pause", timedelta()))
        went_on = self._meter.went_on and not isinstance(error, DamagedFileError)
        await self._end(state.stumble(error, now, pause, went_on=went_on))

    async def _end(self, download: Download) -> None:
        """The last word on this try. Failed files stay for a day, so that the next call goes on with them."""
        error = await attempt(self._worker.save(self, download, tell=True, keep=False))
        if error is not None:
            log.warning("%s keeps its lease until that ends: %s", download.download_id, error)
        elif download.state is DownloadState.SUCCEEDED:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _token(self) -> str:
        sealed = self._download.sealed_token
        opened = self._worker.seal.open(sealed, seal_context(self._download.download_id)) if sealed else b""
        return (opened or b"").decode()


class _Meter:
    """Counts what comes: bytes, files, and the rate over the last seconds."""

    def __init__(self, clock: Clock, over: timedelta) -> None:
        self._clock, self._over = clock, over.total_seconds()
        self._recent: deque[tuple[float, int]] = deque([(clock.monotonic(), 0)])
        self._came = self._done = self._bytes_total = self._files_total = self._files_done = 0

    @property
    def went_on(self) -> bool:
        """Whether any byte came."""
        return self._came > 0

    def total(self, selection: Selection) -> None:
        self._bytes_total, self._files_total = selection.size_bytes, len(selection.files)

    def found(self, size: int) -> None:
        self._done += size

    def lost(self, size: int) -> None:
        self._done -= size

    def received(self, size: int) -> None:
        self._came += size
        self._done += size
        now = self._clock.monotonic()
        self._recent.append((now, self._came))
        while now - self._recent[0][0] > self._over and len(self._recent) > 2:
            self._recent.popleft()

    def file_done(self) -> None:
        self._files_done += 1

    def progress(self) -> Progress:
        begun, before = self._recent[0]
        span = self._clock.monotonic() - begun
        rate = (self._came - before) / span if span > 0 else 0.0
        return Progress(self._bytes_total, max(0, self._done), rate, self._files_total, self._files_done)


async def _contents(folder: Path, upload: Upload) -> AsyncIterator[bytes]:
    for number in range(len(upload.files)):
        with (folder / f"{number}.part").open("rb") as content:
            while piece := await asyncio.to_thread(content.read, MIB):
                yield piece


def _upload(download: Download, repository: Repository, files: Sequence[ModelFile]) -> Upload:
    return Upload(
        name=download.name,
        files=tuple(files),
        framework=download.framework,
        task=repository.task or (Task.LLM if download.framework in (Framework.VLLM, Framework.LLAMACPP) else Task.NLP),
        license=repository.license,
        languages=repository.languages,
        source_url=f"{repository.url}/tree/{repository.commit}",
        tags=repository.tags,
        pickle_allowed=download.allow_pickle,
        downloaded=True,
    )


def _wanted(download: Download) -> Wanted:
    return Wanted(
        download.repo,
        download.revision,
        download.framework,
        download.name,
        allow_pickle=download.allow_pickle,
        quantization=download.quantization,
    )


def _caller(download: Download) -> Caller:
    return Caller(CallerKind.USER, download.user_id, download.org_id)


def _first(group: BaseExceptionGroup[DomainError]) -> DomainError:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, DomainError)
    return first
