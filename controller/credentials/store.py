"""Credentials in PostgreSQL."""

from typing import Any

from sqlalchemy import Column, ColumnElement, Index, Row, Table, Text, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.credentials.model import Credential, CredentialExistsError, CredentialId, CredentialNotFoundError
from mesh.identity import Caller, OrgId, UserId
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.tables import audit_columns, metadata, owner_columns

_OF_A_NAME_TAKEN = "uq_credentials_org_id_name"

credentials = Table(
    "credentials",
    metadata,
    Column("credential_id", Text, primary_key=True),
    *owner_columns(),
    *audit_columns(),
    Column("name", Text, nullable=False),
    Column("sealed", Text, nullable=False),
)
_KEPT: ColumnElement[bool] = credentials.c.deleted_at.is_(None)
Index(_OF_A_NAME_TAKEN, credentials.c.org_id, credentials.c.name, unique=True, postgresql_where=_KEPT)
Index("ix_credentials_created_at_credential_id", credentials.c.created_at, credentials.c.credential_id)


class SqlCredentialStore:
    """Rows of credentials. Whoever asks sees those of their organisation; row-level security says so again."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, reference: str, caller: Caller, *, lock: bool = False) -> Credential:
        """The one of that id or name that is kept. CredentialNotFoundError."""
        either = or_(credentials.c.credential_id == reference, credentials.c.name == reference)
        query = select(credentials).where(either, _KEPT, _visible(caller))
        rows = (await self._connection.execute(query.with_for_update() if lock else query)).all()
        found = [row for row in rows if row.credential_id == reference] or rows
        if len(found) != 1:
            raise CredentialNotFoundError(reference)
        return _credential(found[0])

    async def page(self, caller: Caller, page: PageRequest) -> Page[Credential]:
        """Those of one page, newest first."""
        keyset = Keyset(credentials.c.created_at, credentials.c.credential_id, "credentials")
        query = keyset.apply(select(credentials).where(_visible(caller), _KEPT), page)
        return keyset.page((await self._connection.execute(query)).all(), page, _credential)

    async def all(self) -> tuple[Credential, ...]:
        """Every one that is kept, of every organisation that the connection sees."""
        query = select(credentials).where(_KEPT).order_by(credentials.c.credential_id)
        return tuple(_credential(row) for row in (await self._connection.execute(query)).all())

    async def add(self, credential: Credential) -> None:
        """A new row. CredentialExistsError."""
        try:
            await self._connection.execute(insert(credentials).values(_row(credential)))
        except IntegrityError as error:
            if _OF_A_NAME_TAKEN in str(error.orig):
                raise CredentialExistsError(credential.name) from None
            raise

    async def save(self, credential: Credential) -> None:
        """The row as the credential says."""
        key = credentials.c.credential_id == credential.credential_id
        await self._connection.execute(update(credentials).where(key).values(_row(credential)))


def _visible(caller: Caller) -> ColumnElement[bool]:
    return credentials.c.org_id == caller.org_id if not caller.sees_all else credentials.c.org_id.is_not(None)


_PLAIN = ("created_at", "changed_at", "deleted_at", "name", "sealed")


def _credential(row: Row[Any]) -> Credential:
    return Credential(
        credential_id=CredentialId(row.credential_id),
        org_id=OrgId(row.org_id),
        user_id=UserId(row.user_id),
        **{name: row._mapping[name] for name in _PLAIN},
    )


def _row(credential: Credential) -> dict[str, Any]:
    return {name: getattr(credential, name) for name in ("credential_id", "org_id", "user_id", *_PLAIN)}
