"""What callers do with downloads: begin, look, list, cancel."""

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from controller.models.download import (
    Download,
    DownloadChanged,
    DownloadId,
    DownloadState,
    PickleAllowed,
    Wanted,
)
from controller.models.model import Framework
from mesh.errors import ConflictError, FieldViolation, InvalidRequestError, PermissionDeniedError
from mesh.identity import Caller, OrgId, new_id
from mesh.loops import Wake
from mesh.sql.database import retry_conflicts
from mesh.sql.idempotency import RequestIds, digest_of
from mesh.sql.paging import Page, PageRequest


class DownloadStore(Protocol):
    async def now(self) -> datetime: ...
    async def get(self, download_id: DownloadId, caller: Caller, *, lock: bool = False) -> Download: ...
    async def latest_of(self, org_id: OrgId, wanted: Wanted) -> Download | None: ...
    async def unfinished_of(self, org_id: OrgId, name: str) -> Download | None: ...
    async def page(self, caller: Caller, page: PageRequest, state: DownloadState | None) -> Page[Download]: ...
    async def add(self, download: Download) -> None: ...
    async def save(self, download: Download) -> None: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def downloads(self) -> DownloadStore: ...
    @property
    def requests(self) -> RequestIds: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Seal(Protocol):
    """Keeps secrets unreadable in the database."""

    def close(self, content: bytes, context: str) -> str: ...
    def open(self, sealed: str, context: str) -> bytes | None: ...


class Downloads:
    """The downloads of organisations."""

    def __init__(self, unit_of_work: UnitOfWork, seal: Seal, due: Wake) -> None:
        self._unit_of_work = unit_of_work
        self._seal = seal
        self._due = due

    async def begin(self, caller: Caller, wanted: Wanted, request_id: str) -> Download:
        """Books a download, or answers the one that is on its way; one that failed or was cancelled is taken up.

        InvalidRequestError for a quantisation of what has none; PermissionDeniedError when the caller may not allow
        pickles; ConflictError when something else is being downloaded under that name.
        """
        if wanted.quantization and wanted.framework is not Framework.LLAMACPP:
            raise InvalidRequestError(
                FieldViolation("quantization", "chooses among GGUF files, with framework llamacpp")
            )
        if wanted.allow_pickle and "allow_pickle" not in caller.permissions:
            raise PermissionDeniedError(
                "only owners may let a model have pickles, which run code; ask one, or choose a repository with "
                "safetensors",
                permission="allow_pickle",
            )
        download = await retry_conflicts(lambda: self._try_begin(caller, wanted, request_id))
        self._due.set()
        return download

    async def get(self, caller: Caller, download_id: DownloadId) -> Download:
        """One download; DownloadNotFoundError also for one of another organisation."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.downloads.get(download_id, caller)

    async def page(self, caller: Caller, page: PageRequest, state: DownloadState | None) -> Page[Download]:
        """The downloads that the caller sees, newest first."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.downloads.page(caller, page, state)

    async def cancel(self, caller: Caller, download_id: DownloadId) -> Download:
        """Ends a download; whoever works at it stops at its next report. One that has ended stays as it is."""
        async with self._unit_of_work(caller) as work:
            before = await work.downloads.get(download_id, caller, lock=True)
            if not before.unfinished:
                return before
            now = await work.downloads.now()
            after = before.cancel(now)
            await work.downloads.save(after)
            await work.commit(DownloadChanged(after, now))
        return after

    async def _try_begin(self, caller: Caller, wanted: Wanted, request_id: str) -> Download:
        download_id = DownloadId(new_id("download"))
        async with self._unit_of_work(caller) as work:
            asked: tuple[object, ...] = (
                *(wanted.repo, wanted.revision, wanted.framework, wanted.name, wanted.allow_pickle),
                # Named only where it was, so that calls from before it existed are still known.
                *([wanted.quantization] if wanted.quantization else []),
            )
            booked = await work.requests.claim(
                caller.org_id, "DownloadModel", request_id, digest_of(asked), download_id
            )
            if booked != download_id:
                return await work.downloads.get(DownloadId(booked), caller)
            earlier = await work.downloads.latest_of(caller.org_id, wanted)
            if earlier is not None and earlier.unfinished:
                return earlier
            await _refuse_two_of_a_name(work, caller, wanted)
            now = await work.downloads.now()
            if earlier is None or earlier.state is DownloadState.SUCCEEDED:
                # What its revision names may have moved on since; the worker finds out.
                download = _new(download_id, caller, wanted, self._sealed(wanted, download_id), now)
                await work.downloads.add(download)
            else:
                sealed = self._sealed(wanted, earlier.download_id)
                download = earlier.begin_again(wanted, caller.user_id, sealed, now)
                await work.downloads.save(download)
            allowed = [PickleAllowed(download, caller.user_id, now)] if wanted.allow_pickle else []
            await work.commit(DownloadChanged(download, now), *allowed)
            return download

    def _sealed(self, wanted: Wanted, download_id: DownloadId) -> str:
        return self._seal.close(wanted.token.encode(), seal_context(download_id)) if wanted.token else ""


def seal_context(download_id: DownloadId) -> str:
    """What a token is sealed for: one download, so that it opens for no other."""
    return f"hub token of {download_id}"


async def _refuse_two_of_a_name(work: Work, caller: Caller, wanted: Wanted) -> None:
    other = await work.downloads.unfinished_of(caller.org_id, wanted.name)
    if other is not None:
        raise ConflictError(
            f"{other.repo} is being downloaded as {wanted.name!r} ({other.download_id}); wait for it, cancel it, or "
            "give another name",
            download_id=other.download_id,
        )


def _new(download_id: DownloadId, caller: Caller, wanted: Wanted, sealed: str, now: datetime) -> Download:
    return Download(
        download_id=download_id,
        org_id=caller.org_id,
        user_id=caller.user_id,
        repo=wanted.repo,
        revision=wanted.revision,
        framework=wanted.framework,
        name=wanted.name,
        allow_pickle=wanted.allow_pickle,
        sealed_token=sealed,
        created_at=now,
        changed_at=now,
        quantization=wanted.quantization,
    )
