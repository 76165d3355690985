"""What the tests of events share: making envelopes, and reading topics to their end."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from mesh.events.outbox import Envelope, append
from mesh.identity import SYSTEM
from mesh.sql.database import Database

READ_TIMEOUT_S = 30
_numbers = itertools.count(1)


def new_topic(name: str) -> str:
    """A topic that no other test uses."""
    return f"aiops.test.{name}.{next(_numbers)}.v1"


def envelope(topic: str, key: str, sequence: int, event_type: str = "test.counted") -> Envelope:
    """The event number `sequence` of `key`."""
    return Envelope(
        event_id=f"{topic}/{key}/{sequence}",
        type=event_type,
        source="/test",
        subject=key,
        topic=topic,
        key=key,
        time=datetime.now(UTC),
        value=json.dumps({"sequence": sequence}),
        traceparent="",
    )


async def write(database: Database, *envelopes: Envelope) -> None:
    """Commits events to the outbox."""
    async with database.writing(SYSTEM) as connection:
        await append(connection, *envelopes)
        await connection.commit()


@asynccontextmanager
async def reading(kafka: str, topics: Iterable[str]) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of no group at the start of every partition of the topics."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = []
        for topic in topics:
            numbers = await consumer._client._wait_on_metadata(topic)
            partitions += [TopicPartition(topic, number) for number in sorted(numbers)]
        consumer.assign(partitions)
        yield consumer
    finally:
        await consumer.stop()


async def read(kafka: str, topic: str, count: int) -> list[ConsumerRecord]:
    """The first `count` records of a topic, each partition in its order."""
    found: list[ConsumerRecord] = []
    async with asyncio.timeout(READ_TIMEOUT_S), reading(kafka, [topic]) as consumer:
        while len(found) < count:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += records
    return found


def header(record: ConsumerRecord, name: str) -> str:
    """One header's text; empty when it is not there."""
    raw: bytes = dict(record.headers).get(name, b"")
    return raw.decode()


def sequences(records: Iterable[ConsumerRecord]) -> dict[str, list[int]]:
    """What each key's events count, in the order they were read, without repetitions of an event."""
    found: dict[str, list[int]] = {}
    for record in records:
        sequence = int(json.loads(record.value)["sequence"])
        row = found.setdefault(record.key.decode(), [])
        if sequence not in row:
            row.append(sequence)
    return found
