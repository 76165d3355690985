"""What the area needs from storage, and the use cases of users and organisations."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from controller.iam.model import (
    OWNER_ROLES,
    ApiKey,
    ApiKeyId,
    LastOwnerError,
    Organization,
    ProfileChange,
    RefreshToken,
    Session,
    SessionId,
    User,
    UserCreated,
    UserDeleted,
    check_grantable,
    normal_email,
)
from controller.iam.passwords import Passwords
from controller.iam.signing import SigningKey
from mesh.clock import Clock
from mesh.identity import Caller, OrgId, UserId, new_id
from mesh.loops import Wake
from mesh.sql.idempotency import RequestIds, digest_of
from mesh.sql.paging import Page, PageRequest


class UserStore(Protocol):
    async def get(self, user_id: UserId, caller: Caller, *, lock: bool = False) -> User: ...
    async def find(self, email: str, *, lock: bool = False) -> User | None: ...
    async def page(self, caller: Caller, page: PageRequest) -> Page[User]: ...
    async def any(self) -> bool: ...
    async def add(self, user: User) -> None: ...
    async def save(self, user: User) -> None: ...
    async def lock_owners(self, role: str, org_id: OrgId | None) -> Collection[UserId]: ...


class OrganizationStore(Protocol):
    async def get(self, org_id: OrgId, caller: Caller) -> Organization: ...
    async def page(self, caller: Caller, page: PageRequest) -> Page[Organization]: ...
    async def add(self, organization: Organization) -> None: ...


class SessionStore(Protocol):
    async def add(self, session: Session, token: RefreshToken) -> None: ...
    async def lock(self, token_hash: str) -> tuple[Session, RefreshToken] | None: ...
    async def rotate(self, used: RefreshToken, child: RefreshToken) -> None: ...
    async def end(self, session_id: SessionId, now: datetime) -> bool: ...
    async def end_all(self, user_id: UserId, now: datetime) -> None: ...
    async def forget(self, now: datetime) -> None: ...


class ApiKeyStore(Protocol):
    async def get(self, api_key_id: ApiKeyId, caller: Caller) -> ApiKey: ...
    async def page(self, caller: Caller, page: PageRequest) -> Page[ApiKey]: ...
    async def add(self, api_key: ApiKey) -> None: ...
    async def revoke(self, api_key_id: ApiKeyId, now: datetime) -> bool: ...
    async def revoke_all(self, user_id: UserId, now: datetime) -> None: ...


class TokenTrustStore(Protocol):
    async def add_key(self, key: SigningKey) -> None: ...
    async def lock_keys(self) -> None: ...
    async def verifying_keys(self, now: datetime) -> Sequence[SigningKey]: ...
    async def revoked(self, now: datetime) -> frozenset[str]: ...
    async def forget(self, now: datetime) -> None: ...


class LoginFailureStore(Protocol):
    async def counts(self, keys: Sequence[str], since: datetime) -> dict[str, tuple[int, datetime]]: ...
    async def count(self, keys: Sequence[str], now: datetime, since: datetime) -> dict[str, int]: ...
    async def clear(self, keys: Sequence[str]) -> None: ...
    async def forget(self, before: datetime) -> None: ...


class RequestLimits(Protocol):
    """How many requests a user may make."""

    async def rate_limits(self, org_id: OrgId, user_id: UserId) -> Mapping[str, int]: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def users(self) -> UserStore: ...
    @property
    def organizations(self) -> OrganizationStore: ...
    @property
    def sessions(self) -> SessionStore: ...
    @property
    def api_keys(self) -> ApiKeyStore: ...
    @property
    def token_trust(self) -> TokenTrustStore: ...
    @property
    def login_failures(self) -> LoginFailureStore: ...
    @property
    def requests(self) -> RequestIds: ...
    @property
    def quotas(self) -> RequestLimits: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Users:
    """The users of organisations, and the organisations."""

    def __init__(self, unit_of_work: UnitOfWork, passwords: Passwords, clock: Clock, revoked: Wake) -> None:
        self._unit_of_work = unit_of_work
        self._passwords = passwords
        self._clock = clock
        self._revoked = revoked

    async def get(self, caller: Caller, user_id: UserId) -> User:
        """One user; UserNotFoundError also for one of another organisation."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.users.get(user_id, caller)

    async def page(self, caller: Caller, page: PageRequest) -> Page[User]:
        """The users that the caller sees, newest first."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.users.page(caller, page)

    async def create(
        self,
        caller: Caller,
        *,
        email: str,
        name: str,
        password: str,
        roles: Collection[str],
        org_id: OrgId,
        request_id: str,
    ) -> User:
        """Adds a user to `org_id`, or to the caller's organisation when that is empty."""
        check_grantable(caller, roles)
        now = self._clock.now()
        user = User(
            user_id=UserId(new_id("user")),
            org_id=org_id or caller.org_id,
            created_by=caller.user_id,
            email=normal_email(email),
            name=name,
            roles=tuple(sorted(roles)),
            password_hash=await self._passwords.hash(password),
            created_at=now,
            changed_at=now,
        )
        asked = digest_of(user.email, user.name, user.roles, user.org_id)
        async with self._unit_of_work(caller) as work:
            await work.organizations.get(user.org_id, caller)
            booked = await work.requests.claim(caller.org_id, "CreateUser", request_id, asked, user.user_id)
            if booked != user.user_id:
                return await work.users.get(UserId(booked), caller)
            await work.users.add(user)
            await work.commit(UserCreated(user.user_id, user.org_id, user.roles, user.created_by, now))
        return user

    async def update_me(self, caller: Caller, change: ProfileChange) -> User:
        """Changes the caller's own name or e-mail address."""
        async with self._unit_of_work(caller) as work:
            before = await work.users.get(caller.user_id, caller, lock=True)
            after = before.changed(change, self._clock.now())
            if after is not before:
                await work.users.save(after)
                await work.commit()
            return after

    async def delete(self, caller: Caller, user_id: UserId) -> None:
        """Deletes a user; their sessions and API keys end. LastOwnerError for the last one of an owner role."""
        now = self._clock.now()
        async with self._unit_of_work(caller) as work:
            seen = await work.users.get(user_id, caller)
            seen.check_deletable_by(caller)
            await _check_not_last_owner(work, seen)
            user = await work.users.get(user_id, caller, lock=True)
            await work.users.save(user.deleted(now))
            await work.sessions.end_all(user_id, now)
            await work.api_keys.revoke_all(user_id, now)
            await work.commit(UserDeleted(user_id, user.org_id, caller.user_id, now))
        self._revoked.set()

    async def organizations(self, caller: Caller, page: PageRequest) -> Page[Organization]:
        """The caller's organisation, or all of them for a universe role."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.organizations.page(caller, page)

    async def create_organization(self, caller: Caller, name: str, request_id: str) -> Organization:
        """Adds an organisation."""
        now = self._clock.now()
        organization = Organization(OrgId(new_id("org")), name, now, now)
        async with self._unit_of_work(caller) as work:
            booked = await work.requests.claim(
                caller.org_id, "CreateOrganization", request_id, digest_of(name), organization.org_id
            )
            if booked != organization.org_id:
                return await work.organizations.get(OrgId(booked), caller)
            await work.organizations.add(organization)
            await work.commit()
        return organization


async def _check_not_last_owner(work: Work, user: User) -> None:
    for role in OWNER_ROLES:
        if role not in user.roles:
            continue
        scope = None if role.startswith("universe.") else user.org_id
        if not set(await work.users.lock_owners(role, scope)) - {user.user_id}:
            raise LastOwnerError(role)
