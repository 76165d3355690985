"""Connections to PostgreSQL, each bound to the organisation it may see."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mesh.errors import ConflictError, ExhaustedError, FieldViolation, InvalidRequestError, UnavailableError
from mesh.identity import Caller

log = logging.getLogger(__name__)
Result = TypeVar("Result")

EVERY_ORG = "*"
# A process that stands still inside a transaction keeps its locks from everybody else no longer than this.
IDLE_LIMIT_MS = 3_000
_SET_ORG = text("SELECT set_config('aiops.org', :org, false)")
_SERIALIZATION_FAILURE = "40001"
_DEADLOCK_DETECTED = "40P01"
# A NUL character in a text, or as an escape in JSON: the one thing PostgreSQL's texts cannot hold.
_UNTRANSLATABLE = ("22021", "22P05")


class Database:
    """A pool of connections. Row-level security compares `org_id` with the setting `aiops.org`, '*' being every one.

    The setting stays on a pooled connection and is written only when the next caller's organisation differs, which
    saves a round trip; a connection is never handed out before its setting is right.
    """

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=10,
            pool_pre_ping=False,
            connect_args={
                "timeout": 10,
                "command_timeout": 30,
                "server_settings": {
                    "application_name": "aiops",
                    "jit": "off",
                    "idle_in_transaction_session_timeout": str(IDLE_LIMIT_MS),
                },
            },
        )
        self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def reading(self, caller: Caller) -> AsyncIterator[AsyncConnection]:
        """A connection without a transaction, for single statements that read."""
        async with _known_failures(), self._reader.connect() as connection:
            await _bind(connection, caller)
            yield connection

    @asynccontextmanager
    async def writing(self, caller: Caller) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction. What is not committed by the caller is rolled back."""
        async with _known_failures(), self.engine.connect() as connection:
            await _bind(connection, caller)
            yield connection

    async def dispose(self) -> None:
        """Closes every connection."""
        await self.engine.dispose()


async def retry_conflicts(attempt: Callable[[], Awaitable[Result]], *, tries: int = 3) -> Result:
    """Repeats a transaction that lost against a concurrent one (serialization failure or deadlock), with jitter.

    Raises ConflictError when every try lost.
    """
    for number in range(1, tries):
        try:
            return await attempt()
        except ConflictError:
            await asyncio.sleep(random.random() * 0.05 * number)  # noqa: S311 - jitter is no secret
    return await attempt()


async def _bind(connection: AsyncConnection, caller: Caller) -> None:
    org = EVERY_ORG if caller.sees_all else caller.org_id
    state = (await connection.get_raw_connection()).info
    if state.get("org") == org:
        return
    state.pop("org", None)
    await connection.execute(_SET_ORG, {"org": org})
    await connection.commit()
    state["org"] = org


@asynccontextmanager
async def _known_failures() -> AsyncIterator[None]:
    try:
        yield
    except DBAPIError as error:
        known = _translate(error)
        if known is None:
            raise
        raise known from error
    except PoolTimeoutError as error:
        raise ExhaustedError("every database connection is busy; try again in a moment") from error
    except (OSError, TimeoutError) as error:
        log.warning("the database is away: %s", error)
        raise UnavailableError("the database is not reachable; try again in a moment") from error


def _translate(error: DBAPIError) -> Exception | None:
    code = getattr(error.orig, "sqlstate", None)
    if code in (_SERIALIZATION_FAILURE, _DEADLOCK_DETECTED):
        return ConflictError("the object was changed by somebody else at the same time; repeat the call")
    if code in _UNTRANSLATABLE:
        return InvalidRequestError(FieldViolation("", "texts must not hold the character NUL"))
    if error.connection_invalidated or isinstance(error, OperationalError) or (code or "").startswith(("08", "57P")):
        log.warning("the database is away: %s", error)
        return UnavailableError("the database is not reachable; try again in a moment")
    return None
