"""What users do with batches, and what that needs from storage."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from controller.batches.model import DEFAULT_WINDOW, Batch, BatchId, File, Purpose, window_of
from mesh.errors import FieldViolation, InvalidRequestError
from mesh.identity import Caller, OrgId, new_id
from mesh.loops import Wake
from mesh.sql.idempotency import digest_of
from mesh.sql.paging import Page, PageRequest


class BatchStore(Protocol):
    async def now(self) -> datetime: ...
    async def get(self, batch_id: str, caller: Caller, *, lock: bool = False) -> Batch: ...
    async def page(self, caller: Caller, page: PageRequest, after: str) -> Page[Batch]: ...
    async def add(self, batch: Batch) -> None: ...
    async def save(self, batch: Batch) -> None: ...


class FileStore(Protocol):
    async def get(self, file_id: str, caller: Caller, *, lock: bool = False) -> File: ...


class Requests(Protocol):
    async def claim(self, org_id: OrgId, method: str, request_id: str, digest: str, object_id: str) -> str: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def batches(self) -> BatchStore: ...
    @property
    def batch_files(self) -> FileStore: ...
    @property
    def requests(self) -> Requests: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Batches:
    """Batches of organisations. Workers do the rest: `due` wakes those of this process."""

    def __init__(self, unit_of_work: UnitOfWork, due: Wake) -> None:
        self._unit_of_work = unit_of_work
        self._due = due

    async def create(
        self,
        caller: Caller,
        *,
        input_file_id: str,
        endpoint: str,
        window: str,
        metadata: Mapping[str, str],
        request_id: str,
    ) -> Batch:
        """A new batch; its file is read later. The same `request_id` again answers the same one."""
        batch_id, window = BatchId(new_id("batch")), window or DEFAULT_WINDOW
        async with self._unit_of_work(caller) as work:
            asked = digest_of(input_file_id, endpoint, window, sorted(metadata.items()))
            booked = await work.requests.claim(caller.org_id, "CreateBatch", request_id, asked, batch_id)
            if booked != batch_id:
                return await work.batches.get(booked, caller)
            file = await work.batch_files.get(input_file_id, caller, lock=True)
            if file.purpose is not Purpose.BATCH:
                raise InvalidRequestError(FieldViolation("input_file_id", "the file was not uploaded for a batch"))
            now = await work.batches.now()
            made = Batch(
                batch_id=batch_id,
                org_id=caller.org_id,
                user_id=caller.user_id,
                token_id=caller.token_id,
                created_at=now,
                changed_at=now,
                endpoint=endpoint,
                input_file_id=file.file_id,
                completion_window=window,
                expires_at=now + window_of(window),
                metadata=dict(metadata),
            )
            await work.batches.add(made)
            await work.commit()
        self._due.set()
        return made

    async def page(self, caller: Caller, page: PageRequest, after: str = "") -> Page[Batch]:
        """The batches that the caller sees, newest first; `after` is the id of one to begin behind."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.batches.page(caller, page, after)

    async def get(self, caller: Caller, batch_id: str) -> Batch:
        """One of them."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.batches.get(batch_id, caller)

    async def cancel(self, caller: Caller, batch_id: str) -> Batch:
        """Asks no more; what was answered is kept. One that has ended stays what it is."""
        async with self._unit_of_work(caller) as work:
            before = await work.batches.get(batch_id, caller, lock=True)
            after = before.cancel(await work.batches.now())
            if after != before:
                await work.batches.save(after)
                await work.commit()
        self._due.set()
        return after
