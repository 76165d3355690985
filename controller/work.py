"""The unit of work: one transaction, with every room's stores on it and the outbox of its events."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from controller.events import Encodings, envelopes
from controller.iam.session_store import PostgresLoginFailures, PostgresSessions, PostgresTokenTrust
from controller.iam.store import PostgresApiKeys, PostgresOrganizations, PostgresUsers
from mesh.clock import Clock
from mesh.events.outbox import append
from mesh.identity import Caller
from mesh.loops import Wake
from mesh.sql.database import Database
from mesh.sql.idempotency import RequestIds
from mesh.telemetry import current_traceparent


class Work:
    """The stores on one connection. What is not committed is rolled back."""

    def __init__(self, connection: AsyncConnection, unit_of_work: "UnitOfWork") -> None:
        self.connection = connection
        self._unit_of_work = unit_of_work
        self.requests = RequestIds(connection)
        self.organizations = PostgresOrganizations(connection)
        self.users = PostgresUsers(connection)
        self.sessions = PostgresSessions(connection)
        self.api_keys = PostgresApiKeys(connection)
        self.token_trust = PostgresTokenTrust(connection)
        self.login_failures = PostgresLoginFailures(connection)

    async def commit(self, *events: object) -> None:
        """Commits, with these events in the outbox."""
        await self._unit_of_work.append(self.connection, *events)
        await self.connection.commit()
        if events:
            self._unit_of_work.relay.set()


class UnitOfWork:
    """Opens transactions, and connections that only read, as a caller. `relay` is hinted when events were committed."""

    def __init__(self, database: Database, encodings: Encodings, clock: Clock, relay: Wake) -> None:
        self._database = database
        self._encodings = encodings
        self._clock = clock
        self.relay = relay

    @asynccontextmanager
    async def __call__(self, caller: Caller) -> AsyncIterator[Work]:
        """A transaction."""
        async with self._database.writing(caller) as connection:
            yield Work(connection, self)

    @asynccontextmanager
    async def reading(self, caller: Caller) -> AsyncIterator[Work]:
        """A connection for single statements that read."""
        async with self._database.reading(caller) as connection:
            yield Work(connection, self)

    async def append(self, connection: AsyncConnection, *events: object) -> None:
        """Writes events to the outbox."""
        await append(connection, *envelopes(self._encodings, events, self._clock.now(), current_traceparent()))
