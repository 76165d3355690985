"""Sessions, revoked tokens, signing keys and failed logins in PostgreSQL."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    ForeignKey,
    Integer,
    Row,
    Table,
    Text,
    case,
    delete,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.iam.model import ACCESS_LIFETIME, RefreshToken, Session, SessionId
from controller.iam.signing import SigningKey
from mesh.identity import UserId
from mesh.sql.tables import metadata, moment, owner_columns
from mesh.tokens import SKEW_S

SKEW = timedelta(seconds=SKEW_S)

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    *owner_columns(),
    moment("created_at"),
    moment("expires_at"),
    moment("ended_at", nullable=True),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("session_id", Text, ForeignKey("sessions.session_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("org_id", Text, nullable=False),
    moment("created_at"),
    moment("expires_at"),
    Column("access_token_id", Text, nullable=False),
    moment("access_expires_at"),
    moment("used_at", nullable=True),
)

revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("token_id", Text, primary_key=True),
    moment("expires_at"),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("public_pem", Text, nullable=False),
    Column("sealed_private_key", Text, nullable=False),
    moment("created_at"),
    moment("signs_from"),
)

login_failures = Table(
    "login_failures",
    metadata,
    Column("key", Text, primary_key=True),
    Column("failures", Integer, nullable=False),
    moment("first_at"),
)


class SqlSessionStore:
    """Sessions and their refresh tokens."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, session: Session, token: RefreshToken) -> None:
        """A new session with its first token."""
        await self._connection.execute(insert(sessions).values(asdict(session)))
        await self._connection.execute(insert(refresh_tokens).values(asdict(token)))

    async def lock(self, token_hash: str) -> tuple[Session, RefreshToken] | None:
        """A token and its session; nobody else uses any token of the session until the transaction ends."""
        of_token = select(refresh_tokens.c.session_id).where(refresh_tokens.c.token_hash == token_hash)
        locking = select(sessions).where(sessions.c.session_id == of_token.scalar_subquery()).with_for_update()
        session = (await self._connection.execute(locking)).one_or_none()
        if session is None:
            return None
        # Read after the lock: another holder of it may have used the token.
        reading = select(refresh_tokens).where(refresh_tokens.c.token_hash == token_hash)
        token = (await self._connection.execute(reading)).one()
        return Session(**session._mapping), RefreshToken(**token._mapping)

    async def rotate(self, used: RefreshToken, child: RefreshToken) -> None:
        """Marks a token as used and adds the one after it."""
        mark = update(refresh_tokens).where(refresh_tokens.c.token_hash == used.token_hash)
        await self._connection.execute(mark.values(used_at=used.used_at))
        await self._connection.execute(insert(refresh_tokens).values(asdict(child)))
        extend = update(sessions).where(sessions.c.session_id == child.session_id)
        await self._connection.execute(extend.values(expires_at=child.expires_at))

    async def end(self, session_id: SessionId, now: datetime) -> bool:
        """Ends a session and revokes its access tokens. Whether it was alive until now."""
        return await self._end(sessions.c.session_id == session_id, now)

    async def end_all(self, user_id: UserId, now: datetime) -> None:
        """Ends every session of a user."""
        await self._end(sessions.c.user_id == user_id, now)

    async def forget(self, now: datetime) -> None:
        """Deletes sessions that nobody can refresh any more."""
        await self._connection.execute(delete(sessions).where(sessions.c.expires_at < now))

    async def _end(self, which: ColumnElement[bool], now: datetime) -> bool:
        living = update(sessions).where(which, sessions.c.ended_at.is_(None))
        ended = await self._connection.scalars(living.values(ended_at=now).returning(sessions.c.session_id))
        session_ids = ended.all()
        tokens = await self._connection.execute(
            select(refresh_tokens.c.access_token_id, refresh_tokens.c.access_expires_at).where(
                refresh_tokens.c.session_id.in_(session_ids)
            )
        )
        await revoke_tokens(self._connection, tokens.all(), now)
        return bool(session_ids)


class SqlTokenTrustStore:
    """The keys that tokens are verified with, and the tokens that are refused all the same."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add_key(self, key: SigningKey) -> None:
        """A new signing key."""
        await self._connection.execute(insert(signing_keys).values(asdict(key)))

    async def lock_keys(self) -> None:
        """Nobody else makes signing keys until the transaction ends."""
        await self._connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('aiops.signing_keys'))"))

    async def verifying_keys(self, now: datetime) -> Sequence[SigningKey]:
        """The keys whose tokens may still be alive, newest first."""
        rows = await self._connection.execute(
            select(signing_keys).where(self._alive(now)).order_by(signing_keys.c.signs_from.desc())
        )
        return [_signing_key(row) for row in rows]

    async def revoked(self, now: datetime) -> frozenset[str]:
        """The ids of revoked tokens that have not expired."""
        query = select(revoked_tokens.c.token_id).where(revoked_tokens.c.expires_at > now - SKEW)
        return frozenset(await self._connection.scalars(query))

    async def forget(self, now: datetime) -> None:
        """Deletes revocations of expired tokens, and keys that no living token is signed with."""
        await self._connection.execute(delete(revoked_tokens).where(revoked_tokens.c.expires_at < now - SKEW))
        await self._connection.execute(delete(signing_keys).where(~self._alive(now)))

    def _alive(self, now: datetime) -> ColumnElement[bool]:
        """No newer key has signed for longer than an access token lives, or a living API key is signed with it."""
        newer = signing_keys.alias("newer")
        succeeded_at = (
            select(func.min(newer.c.signs_from))
            .where(newer.c.signs_from > signing_keys.c.signs_from)
            .correlate(signing_keys)
            .scalar_subquery()
        )
        api_keys = metadata.tables["api_keys"]
        used = select(api_keys.c.key_id).where(
            api_keys.c.key_id == signing_keys.c.key_id,
            api_keys.c.revoked_at.is_(None),
            api_keys.c.expires_at > now - SKEW,
        )
        recent = func.coalesce(succeeded_at, now) > now - ACCESS_LIFETIME - SKEW
        return or_(recent, used.correlate(signing_keys).exists())


class SqlLoginFailureStore:
    """Counted failures in windows that begin with the first."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def counts(self, keys: Sequence[str], since: datetime) -> dict[str, tuple[int, datetime]]:
        """Failures and the first one's time, of the windows that began after `since`."""
        query = select(login_failures).where(login_failures.c.key.in_(keys), login_failures.c.first_at > since)
        return {row.key: (row.failures, row.first_at) for row in await self._connection.execute(query)}

    async def count(self, keys: Sequence[str], now: datetime, since: datetime) -> dict[str, int]:
        """Counts one failure more for each key; a window that began before `since` begins again."""
        # In order, so that two transactions never wait for each other.
        rows = [{"key": key, "failures": 1, "first_at": now} for key in sorted(keys)]
        adding = insert(login_failures).values(rows)
        stale = login_failures.c.first_at <= since
        counted = await self._connection.execute(
            adding.on_conflict_do_update(
                index_elements=[login_failures.c.key],
                set_={
                    "failures": case((stale, 1), else_=login_failures.c.failures + 1),
                    "first_at": case((stale, now), else_=login_failures.c.first_at),
                },
            ).returning(login_failures.c.key, login_failures.c.failures)
        )
        return {row.key: row.failures for row in counted}

    async def clear(self, keys: Sequence[str]) -> None:
        """Forgets the failures of these keys."""
        mine = select(login_failures.c.key).where(login_failures.c.key.in_(keys)).order_by(login_failures.c.key)
        await self._connection.execute(delete(login_failures).where(login_failures.c.key.in_(mine.with_for_update())))

    async def forget(self, before: datetime) -> None:
        """Deletes windows that began before a moment."""
        await self._connection.execute(delete(login_failures).where(login_failures.c.first_at < before))


async def revoke_tokens(connection: AsyncConnection, tokens: Iterable[Sequence[Any]], now: datetime) -> bool:
    """Refuses tokens, given with their expiry, until they expire. Whether there were any."""
    ended = list(tokens)
    living = [
        {"token_id": token_id, "expires_at": expires_at} for token_id, expires_at in ended if expires_at > now - SKEW
    ]
    if living:
        await connection.execute(insert(revoked_tokens).values(living).on_conflict_do_nothing())
    return bool(ended)


def _signing_key(row: Row[Any]) -> SigningKey:
    return SigningKey(row.key_id, row.public_pem, row.sealed_private_key, row.created_at, row.signs_from)
