"""What is done with quotas, and what that needs from storage."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from controller.hints import Hints
from controller.iam.model import ApiKey, ApiKeyId, Organization, User
from controller.quotas.model import (
    NAME,
    Limits,
    Quota,
    QuotaChanged,
    QuotaChangedError,
    QuotaId,
    QuotaNotFoundError,
    Subject,
    Used,
)
from mesh.errors import DomainError, FieldViolation, InvalidRequestError, Kind, PermissionDeniedError
from mesh.identity import Caller, OrgId, UserId, new_id
from mesh.sql.idempotency import digest_of
from mesh.sql.paging import Page, PageRequest


class QuotaStore(Protocol):
    async def get(self, quota_id: str, caller: Caller, *, lock: bool = False) -> Quota: ...
    async def page(self, caller: Caller, page: PageRequest) -> Page[Quota]: ...
    async def add(self, quota: Quota) -> None: ...
    async def save(self, quota: Quota) -> None: ...
    async def used(self, quotas: Sequence[Quota], now: datetime) -> dict[QuotaId, tuple[Used, ...]]: ...


class Organizations(Protocol):
    async def get(self, org_id: OrgId, caller: Caller) -> Organization: ...


class Users(Protocol):
    async def get(self, user_id: UserId, caller: Caller) -> User: ...


class ApiKeys(Protocol):
    async def get(self, api_key_id: ApiKeyId, caller: Caller) -> ApiKey: ...


class Routes(Protocol):
    async def own_name(self, name: str, org_id: OrgId) -> str: ...


class Requests(Protocol):
    async def claim(self, org_id: OrgId, method: str, request_id: str, digest: str, object_id: str) -> str: ...


class Clockwork(Protocol):
    async def now(self) -> datetime: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def quotas(self) -> QuotaStore: ...
    @property
    def organizations(self) -> Organizations: ...
    @property
    def users(self) -> Users: ...
    @property
    def api_keys(self) -> ApiKeys: ...
    @property
    def routes(self) -> Routes: ...
    @property
    def requests(self) -> Requests: ...
    @property
    def nodes(self) -> Clockwork: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Quotas:
    """Limits of what organisations, their users and their keys may use."""

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints) -> None:
        self._unit_of_work = unit_of_work
        self._hints = hints

    async def get(self, caller: Caller, quota_id: str) -> tuple[Quota, tuple[Used, ...]]:
        """One quota and what was used of it. QuotaNotFoundError also for one of another organisation."""
        async with self._unit_of_work.reading(caller) as work:
            found = await work.quotas.get(quota_id, caller)
            used = await work.quotas.used([found], await work.nodes.now())
        return found, used.get(found.quota_id, ())

    async def page(self, caller: Caller, page: PageRequest) -> Page[Quota]:
        """The quotas that the caller sees, newest first."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.quotas.page(caller, page)

    async def create(
        self, caller: Caller, *, subject: Subject, subject_id: str, model: str, limits: Limits, request_id: str
    ) -> Quota:
        """A new quota. The same `request_id` again answers the same one. InvalidRequestError for who is not there."""
        limits.check()
        quota_id = QuotaId(new_id("quota"))
        async with self._unit_of_work(caller) as work:
            asked = digest_of(subject, subject_id, model, limits)
            booked = await work.requests.claim(caller.org_id, "CreateQuota", request_id, asked, quota_id)
            if booked != quota_id:
                return await work.quotas.get(booked, caller)
            org_id = await _organisation(work, caller, subject, subject_id)
            await _check_model(work, model, org_id)
            now = await work.nodes.now()
            made = Quota(
                quota_id=quota_id,
                org_id=org_id,
                user_id=caller.user_id,
                created_at=now,
                changed_at=now,
                subject=subject,
                subject_id=org_id if subject is Subject.ORGANIZATION else subject_id,
                model=model,
                limits=limits,
                imposed=caller.sees_all,
            )
            await work.quotas.add(made)
            await work.commit(QuotaChanged(made, now))
        self._hints.quotas_changed()
        return made

    async def update(self, caller: Caller, quota_id: str, change: Callable[[Limits], Limits], version: int) -> Quota:
        """Other limits. QuotaChangedError when `version` is not 0 and not the quota's."""

        def changed(before: Quota, now: datetime) -> Quota:
            if before.deleted_at is not None:
                raise QuotaNotFoundError(quota_id)
            if version and version != before.version:
                raise QuotaChangedError(before)
            return before.change(change(before.limits), now)

        return await self._change(caller, quota_id, changed)

    async def delete(self, caller: Caller, quota_id: str) -> Quota:
        """Nothing is limited by it any more. Can be repeated."""
        return await self._change(caller, quota_id, lambda before, now: before.delete(now))

    async def _change(self, caller: Caller, quota_id: str, change: Callable[[Quota, datetime], Quota]) -> Quota:
        async with self._unit_of_work(caller) as work:
            before = await work.quotas.get(quota_id, caller, lock=True)
            if before.imposed and not caller.sees_all:
                raise PermissionDeniedError(f"{quota_id} was set by the platform; only universe roles change it")
            now = await work.nodes.now()
            after = change(before, now)
            if after is before:
                return before
            await work.quotas.save(after)
            await work.commit(QuotaChanged(after, now))
        self._hints.quotas_changed()
        return after


async def _organisation(work: Work, caller: Caller, subject: Subject, subject_id: str) -> OrgId:
    """The organisation of a subject that the caller may limit."""
    if subject_id and not NAME.fullmatch(subject_id):
        raise InvalidRequestError(FieldViolation("subject_id", "is no id"))
    if subject is Subject.ORGANIZATION and subject_id in ("", caller.org_id):
        return caller.org_id
    try:
        if subject is Subject.ORGANIZATION:
            return (await work.organizations.get(OrgId(subject_id), caller)).org_id
        if subject is Subject.USER:
            return (await work.users.get(UserId(subject_id), caller)).org_id
        return (await work.api_keys.get(ApiKeyId(subject_id), caller)).org_id
    except DomainError as error:
        if error.kind is not Kind.NOT_FOUND:
            raise
        text = f"there is no {subject.value.replace('_', ' ')} {subject_id}"
        raise InvalidRequestError(FieldViolation("subject_id", text)) from None


async def _check_model(work: Work, model: str, org_id: OrgId) -> None:
    """Whichever of a route's names is sent, requests count for its own one."""
    if not model:
        return
    if not NAME.fullmatch(model):
        raise InvalidRequestError(FieldViolation("model", "is no name"))
    own = await work.routes.own_name(model, org_id)
    if own not in ("", model):
        raise InvalidRequestError(FieldViolation("model", f"is another name of route {own}; name that one"))
