"""A database, a broker, and what tests of consumers do with them."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.events.cloudevents import headers_of
from mesh.events.consumed import consumed_events
from mesh.events.consumer import Consumer, ConsumerSettings, Handler
from mesh.events.kafka import Kafka, Record
from mesh.events.outbox import Envelope, outbox
from mesh.events.publisher import KafkaPublisher
from mesh.identity import SYSTEM
from mesh.loops import Backoff, Wake
from mesh.sql.database import Database
from mesh.sql.tables import metadata
from mesh.telemetry import Telemetry
from tests.mesh.events.records import new_topic

QUICK = Backoff(first=timedelta(milliseconds=5), limit=timedelta(milliseconds=20))
SETTINGS = ConsumerSettings(poll=timedelta(milliseconds=20))


async def note(connection: AsyncConnection, event: Envelope) -> None:
    """The effect: one row for each time it is had."""
    sequence = json.loads(event.value)["sequence"]
    await connection.execute(
        text("INSERT INTO effects (key, sequence) VALUES (:key, :sequence)"), {"key": event.key, "sequence": sequence}
    )


class Bench:
    """A database, a broker, and what tests of consumers do with them."""

    def __init__(self, database: Database, servers: str, telemetry: Telemetry) -> None:
        self.database = database
        self.kafka = Kafka(servers)
        self.telemetry = telemetry
        self.publisher = KafkaPublisher(self.kafka)
        self.group = new_topic("group")

    async def send(self, *events: Envelope) -> None:
        records = [Record(each.topic, each.key.encode(), each.value.encode(), headers_of(each)) for each in events]
        assert (await self.publisher.publish(records)).error == ""

    def consumer(self, topics: Sequence[str], handlers: Mapping[str, Handler] | None = None) -> Consumer:
        return Consumer(
            self.group,
            topics,
            handlers or {"test.counted": note},
            database=self.database,
            kafka=self.kafka,
            telemetry=self.telemetry,
            settings=SETTINGS,
            backoff=QUICK,
        )

    @asynccontextmanager
    async def consuming(self, *consumers: Consumer) -> AsyncIterator[None]:
        running = [asyncio.ensure_future(consumer.run()) for consumer in consumers]
        try:
            yield
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def effects(self) -> list[tuple[str, int]]:
        async with self.database.reading(SYSTEM) as connection:
            rows = await connection.execute(text("SELECT key, sequence FROM effects ORDER BY number"))
            return [(row.key, row.sequence) for row in rows]

    async def until(self, count: int) -> list[tuple[str, int]]:
        async with asyncio.timeout(40):
            while len(found := await self.effects()) < count:
                await Wake().wait(timedelta(milliseconds=20))
        return found


async def make_tables(database: Database) -> None:
    """The tables of events, and one that shows each effect."""
    async with database.engine.begin() as connection:
        await connection.run_sync(metadata.create_all, tables=[outbox, consumed_events])
        await connection.execute(
            text("CREATE TABLE effects (number bigserial PRIMARY KEY, key text NOT NULL, sequence int NOT NULL)")
        )
