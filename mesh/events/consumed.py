"""Which events were handled already: remembered in the transaction of their effect."""

from datetime import timedelta

from sqlalchemy import Column, Table, Text, delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.sql.tables import metadata, moment

consumed_events = Table(
    "consumed_events",
    metadata,
    Column("consumer", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("consumed_at", moment("consumed_at").type, nullable=False, server_default=func.now(), index=True),
)


class ConsumedEvents:
    """The table, on one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def remember(self, consumer: str, event_id: str) -> bool:
        """Whether the event is new to the consumer, and remembers it if this transaction commits.

        Waits for a transaction that is handling the same event right now.
        """
        statement = insert(consumed_events).values(consumer=consumer, event_id=event_id).on_conflict_do_nothing()
        return (await self._connection.execute(statement)).rowcount == 1

    async def forget(self, retention: timedelta) -> None:
        """Deletes what is older than any repetition can be."""
        old = consumed_events.c.consumed_at < func.now() - retention
        await self._connection.execute(delete(consumed_events).where(old))
