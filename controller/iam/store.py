"""Organisations, users and API keys in PostgreSQL."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Index, Row, Table, Text, exists, select, text, true, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.iam.model import (
    ApiKey,
    ApiKeyId,
    ApiKeyNotFoundError,
    Organization,
    OrganizationExistsError,
    OrganizationNotFoundError,
    User,
    UserExistsError,
    UserNotFoundError,
)
from controller.iam.session_store import revoke_tokens
from mesh.identity import Caller, OrgId, UserId
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.tables import audit_columns, metadata, moment, owner_columns

organizations = Table(
    "organizations",
    metadata,
    Column("org_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    *audit_columns(),
    Index("uq_organizations_name", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
)

users = Table(
    "users",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("org_id", Text, nullable=False, index=True),
    Column("created_by", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("roles", ARRAY(Text), nullable=False),
    Column("password_hash", Text, nullable=False),
    *audit_columns(),
    Index("uq_users_email", "email", unique=True, postgresql_where=text("deleted_at IS NULL")),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("api_key_id", Text, primary_key=True),
    *owner_columns(),
    Column("name", Text, nullable=False),
    Column("roles", ARRAY(Text), nullable=False),
    Column("key_id", Text, nullable=False),
    moment("created_at"),
    moment("expires_at"),
    moment("revoked_at", nullable=True),
)


class SqlOrganizationStore:
    """The organisations."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, org_id: OrgId, caller: Caller) -> Organization:
        """One organisation that the caller sees; OrganizationNotFoundError otherwise."""
        query = select(organizations).where(organizations.c.org_id == org_id, _living(organizations, caller))
        row = (await self._connection.execute(query)).one_or_none()
        if row is None:
            raise OrganizationNotFoundError(org_id)
        return _organization(row)

    async def page(self, caller: Caller, page: PageRequest) -> Page[Organization]:
        """Those that the caller sees, newest first."""
        keyset = Keyset(organizations.c.created_at, organizations.c.org_id)
        query = keyset.apply(select(organizations).where(_living(organizations, caller)), page)
        return keyset.page((await self._connection.execute(query)).all(), page, _organization)

    async def add(self, organization: Organization) -> None:
        """OrganizationExistsError when the name is taken."""
        row = {
            "org_id": organization.org_id,
            "name": organization.name,
            "created_at": organization.created_at,
            "changed_at": organization.changed_at,
        }
        added = await self._connection.execute(
            insert(organizations).values(row).on_conflict_do_nothing().returning(organizations.c.org_id)
        )
        if added.first() is None:
            raise OrganizationExistsError(organization.name)


class SqlUserStore:
    """The users."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, user_id: UserId, caller: Caller, *, lock: bool = False) -> User:
        """One user that the caller sees; UserNotFoundError otherwise."""
        query = select(users).where(users.c.user_id == user_id, _living(users, caller))
        row = (await self._connection.execute(query.with_for_update() if lock else query)).one_or_none()
        if row is None:
            raise UserNotFoundError(user_id)
        return _user(row)

    async def find(self, email: str, *, lock: bool = False) -> User | None:
        """The user with this address, in whatever organisation."""
        query = select(users).where(users.c.email == email, users.c.deleted_at.is_(None))
        row = (await self._connection.execute(query.with_for_update() if lock else query)).one_or_none()
        return _user(row) if row else None

    async def page(self, caller: Caller, page: PageRequest) -> Page[User]:
        """Those that the caller sees, newest first."""
        keyset = Keyset(users.c.created_at, users.c.user_id)
        query = keyset.apply(select(users).where(_living(users, caller)), page)
        return keyset.page((await self._connection.execute(query)).all(), page, _user)

    async def any(self) -> bool:
        """Whether there has ever been a user; the transaction then holds the right to make the first."""
        await self._connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('aiops.first_user'))"))
        return bool(await self._connection.scalar(select(exists(select(users.c.user_id)))))

    async def add(self, user: User) -> None:
        """UserExistsError when the address is taken."""
        added = await self._connection.execute(
            insert(users)
            .values(user_id=user.user_id, created_by=user.created_by, created_at=user.created_at, **_changing(user))
            .on_conflict_do_nothing()
            .returning(users.c.user_id)
        )
        if added.first() is None:
            raise UserExistsError(user.email)

    async def save(self, user: User) -> None:
        """UserExistsError when another user took the address."""
        try:
            await self._connection.execute(update(users).where(users.c.user_id == user.user_id).values(_changing(user)))
        except IntegrityError as error:
            raise UserExistsError(user.email) from error

    async def lock_owners(self, role: str, org_id: OrgId | None) -> Collection[UserId]:
        """The users with an owner role, of one organisation or of all; none changes until the transaction ends."""
        here = true() if org_id is None else users.c.org_id == org_id
        query = select(users.c.user_id).where(users.c.roles.any_() == role, users.c.deleted_at.is_(None), here)
        return (await self._connection.scalars(query.order_by(users.c.user_id).with_for_update())).all()


class SqlApiKeyStore:
    """The API keys."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, api_key_id: ApiKeyId, caller: Caller) -> ApiKey:
        """One key that the caller sees; ApiKeyNotFoundError otherwise."""
        query = select(api_keys).where(api_keys.c.api_key_id == api_key_id, _own_keys(caller))
        row = (await self._connection.execute(query)).one_or_none()
        if row is None:
            raise ApiKeyNotFoundError(api_key_id)
        return _api_key(row)

    async def page(self, caller: Caller, page: PageRequest) -> Page[ApiKey]:
        """Those that the caller sees, newest first."""
        keyset = Keyset(api_keys.c.created_at, api_keys.c.api_key_id)
        query = keyset.apply(select(api_keys).where(_own_keys(caller)), page)
        return keyset.page((await self._connection.execute(query)).all(), page, _api_key)

    async def add(self, api_key: ApiKey) -> None:
        row = {
            "api_key_id": api_key.api_key_id,
            "org_id": api_key.org_id,
            "user_id": api_key.user_id,
            "name": api_key.name,
            "roles": list(api_key.roles),
            "key_id": api_key.key_id,
            "created_at": api_key.created_at,
            "expires_at": api_key.expires_at,
        }
        await self._connection.execute(insert(api_keys).values(row))

    async def revoke(self, api_key_id: ApiKeyId, now: datetime) -> bool:
        """Whether the key was alive until now."""
        return await self._revoke(api_keys.c.api_key_id == api_key_id, now)

    async def revoke_all(self, user_id: UserId, now: datetime) -> None:
        """Ends every key of a user."""
        await self._revoke(api_keys.c.user_id == user_id, now)

    async def _revoke(self, which: ColumnElement[bool], now: datetime) -> bool:
        ended = await self._connection.execute(
            update(api_keys)
            .where(which, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=now)
            .returning(api_keys.c.api_key_id, api_keys.c.expires_at)
        )
        return await revoke_tokens(self._connection, ended.all(), now)


def _living(table: Table, caller: Caller) -> ColumnElement[bool]:
    """Not deleted, and of an organisation that the caller sees."""
    alive = table.c.deleted_at.is_(None)
    return alive if caller.sees_all else alive & (table.c.org_id == caller.org_id)


def _own_keys(caller: Caller) -> ColumnElement[bool]:
    if "manage_users" not in caller.permissions:
        return api_keys.c.user_id == caller.user_id
    return true() if caller.sees_all else api_keys.c.org_id == caller.org_id


def _changing(user: User) -> dict[str, Any]:
    return {
        "org_id": user.org_id,
        "email": user.email,
        "name": user.name,
        "roles": list(user.roles),
        "password_hash": user.password_hash,
        "changed_at": user.changed_at,
        "deleted_at": user.deleted_at,
    }


def _organization(row: Row[Any]) -> Organization:
    return Organization(row.org_id, row.name, row.created_at, row.changed_at)


def _user(row: Row[Any]) -> User:
    return User(
        user_id=row.user_id,
        org_id=row.org_id,
        created_by=row.created_by,
        email=row.email,
        name=row.name,
        roles=tuple(row.roles),
        password_hash=row.password_hash,
        created_at=row.created_at,
        changed_at=row.changed_at,
        deleted_at=row.deleted_at,
    )


def _api_key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        api_key_id=row.api_key_id,
        name=row.name,
        roles=tuple(row.roles),
        org_id=row.org_id,
        user_id=row.user_id,
        key_id=row.key_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
