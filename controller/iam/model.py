"""Organisations, users, sessions, API keys, and the rules that hold between them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NewType

from mesh.errors import DomainError, FieldViolation, InvalidRequestError, Kind, PermissionDeniedError
from mesh.identity import Caller, OrgId, UserId

ApiKeyId = NewType("ApiKeyId", str)
SessionId = NewType("SessionId", str)

ACCESS_LIFETIME = timedelta(minutes=15)
REFRESH_LIFETIME = timedelta(days=7)
API_KEY_DAYS = 365
OWNER_ROLES = ("universe.owner", "organization.owner")
_GRANTABLE_PREFIX = {"universe.owner": ("universe.", "organization."), "organization.owner": ("organization.",)}
_PROFILE_FIELDS = ("name", "email")


class LoginFailedError(DomainError):
    """Unknown address or wrong password; which one is not said."""

    kind, reason = Kind.UNAUTHENTICATED, "LOGIN_FAILED"

    def __init__(self) -> None:
        super().__init__("the e-mail address or the password is wrong")


class LoginThrottledError(DomainError):
    """Too many failed logins."""

    kind, reason = Kind.EXHAUSTED, "LOGIN_THROTTLED"

    def __init__(self, retry_after: timedelta) -> None:
        seconds = max(1, -(-retry_after // timedelta(seconds=1)))
        super().__init__(f"too many failed logins; try again in {seconds} s", retry_after_seconds=str(seconds))


class RefreshTokenInvalidError(DomainError):
    """The refresh token is unknown, has expired, or its session has ended."""

    kind, reason = Kind.UNAUTHENTICATED, "REFRESH_TOKEN_INVALID"

    def __init__(self) -> None:
        super().__init__("the refresh token is unknown, has expired or its session has ended; sign in again")


class RefreshTokenReusedError(DomainError):
    """The refresh token was used before: somebody has a copy."""

    kind, reason = Kind.UNAUTHENTICATED, "REFRESH_TOKEN_REUSED"

    def __init__(self) -> None:
        super().__init__("the refresh token was used before, so every token of its session has ended; sign in again")


class UserNotFoundError(DomainError):
    """There is no such user, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "USER_NOT_FOUND"

    def __init__(self, user_id: UserId) -> None:
        super().__init__(f"there is no user {user_id}", user_id=user_id)


class UserExistsError(DomainError):
    """The e-mail address is taken."""

    kind, reason = Kind.EXISTS, "USER_EXISTS"

    def __init__(self, email: str) -> None:
        super().__init__(f"there is a user {email} already", email=email)


class OrganizationNotFoundError(DomainError):
    """There is no such organisation, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "ORGANIZATION_NOT_FOUND"

    def __init__(self, org_id: OrgId) -> None:
        super().__init__(f"there is no organisation {org_id}", org_id=org_id)


class OrganizationExistsError(DomainError):
    """The organisation's name is taken."""

    kind, reason = Kind.EXISTS, "ORGANIZATION_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is an organisation {name} already", name=name)


class ApiKeyNotFoundError(DomainError):
    """There is no such API key, or none that the caller may revoke."""

    kind, reason = Kind.NOT_FOUND, "API_KEY_NOT_FOUND"

    def __init__(self, api_key_id: ApiKeyId) -> None:
        super().__init__(f"there is no API key {api_key_id}", api_key_id=api_key_id)


class WrongPasswordError(DomainError):
    """The current password given with a change is wrong."""

    kind, reason = Kind.FORBIDDEN, "WRONG_PASSWORD"

    def __init__(self) -> None:
        super().__init__("the current password is wrong")


class RoleNotGrantableError(DomainError):
    """The caller may not give this role away."""

    kind, reason = Kind.FORBIDDEN, "ROLE_NOT_GRANTABLE"

    def __init__(self, roles: Iterable[str]) -> None:
        named = ", ".join(sorted(roles))
        super().__init__(f"your roles do not let you grant {named}", roles=named)


class LastOwnerError(DomainError):
    """Without this user nobody could manage the platform or the organisation."""

    kind, reason = Kind.PRECONDITION, "LAST_OWNER"

    def __init__(self, role: str) -> None:
        super().__init__(f"this is the last {role}; give the role to another user first", role=role)


@dataclass(frozen=True, slots=True)
class Organization:
    """A tenant."""

    org_id: OrgId
    name: str
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class ProfileChange:
    """What a user changes about themself; None leaves a field as it is."""

    name: str | None = None
    email: str | None = None

    @staticmethod
    def of(name: str, email: str, mask: Iterable[str]) -> "ProfileChange":
        """The change that the fields in `mask` ask for; an empty mask means every field that is set.

        InvalidRequestError names the paths that cannot be changed, and an e-mail address that would be empty.
        """
        given = {"name": name, "email": email}
        paths = list(mask) or [path for path in _PROFILE_FIELDS if given[path]]
        unknown = [path for path in paths if path not in given]
        wrong = [FieldViolation("update_mask", f"there is no field to change at `{path}`") for path in unknown]
        if "email" in paths and not email:
            wrong.append(FieldViolation("user.email", "must not be empty"))
        if wrong:
            raise InvalidRequestError(*wrong)
        return ProfileChange(**{path: given[path] for path in paths})


@dataclass(frozen=True, slots=True)
class User:
    """A person or program that signs in. `created_by` is the user who made this one."""

    user_id: UserId
    org_id: OrgId
    created_by: UserId
    email: str
    name: str
    roles: tuple[str, ...]
    password_hash: str
    created_at: datetime
    changed_at: datetime
    deleted_at: datetime | None = None

    def __repr__(self) -> str:
        return f"User({self.user_id})"

    def changed(self, change: ProfileChange, now: datetime) -> "User":
        """The user after a change; the same object when it changes nothing."""
        name = self.name if change.name is None else change.name
        email = self.email if change.email is None else normal_email(change.email)
        if (name, email) == (self.name, self.email):
            return self
        return replace(self, name=name, email=email, changed_at=now)

    def deleted(self, now: datetime) -> "User":
        """The user after its deletion."""
        return replace(self, deleted_at=now, changed_at=now)

    def check_deletable_by(self, caller: Caller) -> None:
        """PermissionDeniedError when the caller's roles are beneath those of the user."""
        if any(role.startswith("universe.") for role in self.roles) and not caller.sees_all:
            raise PermissionDeniedError("only a universe.owner may delete a user with a universe role")


@dataclass(frozen=True, slots=True)
class Session:
    """A family of refresh tokens: one login and everything refreshed from it."""

    session_id: SessionId
    user_id: UserId
    org_id: OrgId
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """One link of a session, kept as a hash, with the access token that was handed out beside it."""

    token_hash: str
    session_id: SessionId
    org_id: OrgId
    created_at: datetime
    expires_at: datetime
    access_token_id: str
    access_expires_at: datetime
    used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A long-lived credential for programs: a JWT whose `jti` is `api_key_id`, signed by the key `key_id`."""

    api_key_id: ApiKeyId
    name: str
    roles: tuple[str, ...]
    org_id: OrgId
    user_id: UserId
    key_id: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a login answers."""

    access_token: str
    refresh_token: str
    expires_in: timedelta

    def __repr__(self) -> str:
        return "TokenPair(…)"


@dataclass(frozen=True, slots=True)
class UserCreated:
    user_id: UserId
    org_id: OrgId
    roles: tuple[str, ...]
    created_by: UserId
    at: datetime


@dataclass(frozen=True, slots=True)
class UserDeleted:
    user_id: UserId
    org_id: OrgId
    deleted_by: UserId
    at: datetime


@dataclass(frozen=True, slots=True)
class LoginRefused:
    email: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class TokenFamilyRevoked:
    user_id: UserId
    org_id: OrgId
    session_id: SessionId
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ApiKeyCreated:
    api_key_id: ApiKeyId
    user_id: UserId
    org_id: OrgId
    at: datetime


@dataclass(frozen=True, slots=True)
class ApiKeyRevoked:
    api_key_id: ApiKeyId
    user_id: UserId
    org_id: OrgId
    at: datetime


def normal_email(email: str) -> str:
    """The address as it is kept and compared: without surrounding blanks and without case."""
    return email.strip().casefold()


def check_grantable(caller: Caller, roles: Iterable[str]) -> None:
    """RoleNotGrantableError when the caller may not give these roles to a user."""
    allowed = tuple(prefix for role in caller.roles for prefix in _GRANTABLE_PREFIX.get(role, ()))
    refused = [role for role in roles if not role.startswith(allowed)]
    if refused:
        raise RoleNotGrantableError(refused)


def api_key_roles(caller: Caller, roles: Iterable[str]) -> tuple[str, ...]:
    """The roles of a new API key: those asked for, or all of the caller's. RoleNotGrantableError for one not theirs."""
    asked = set(roles) or caller.roles
    if not asked <= caller.roles:
        raise RoleNotGrantableError(asked - caller.roles)
    return tuple(sorted(asked))
