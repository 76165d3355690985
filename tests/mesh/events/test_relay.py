"""The relay publishes what was committed, in order per key, whatever dies."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from mesh.events.kafka import Kafka, Record
from mesh.events.outbox import Outbox, append, outbox
from mesh.events.publisher import Delivery, KafkaPublisher
from mesh.events.relay import Relay, RelaySettings
from mesh.identity import SYSTEM
from mesh.loops import Wake
from mesh.sql.database import Database
from mesh.telemetry import Telemetry
from stack.broker import Broker
from stack.ports import free_port
from tests.fixtures.broker import start_broker
from tests.mesh.events.records import envelope, header, new_topic, read, sequences, write

EAGER = RelaySettings(batch=40, poll=timedelta(milliseconds=20))


async def waiting(database: Database) -> int:
    async with database.writing(SYSTEM) as connection:
        return (await Outbox(connection).backlog()).count


async def drained(database: Database) -> None:
    async with asyncio.timeout(30):
        while await waiting(database):
            await Wake().wait(timedelta(milliseconds=20))


async def test_an_event_is_a_cloud_event_in_binary_mode(
    events_database: Database, kafka: str, telemetry: Telemetry
) -> None:
    topic = new_topic("binary")
    sent = envelope(topic, "node-1", 7)
    await write(events_database, sent)
    publisher = KafkaPublisher(Kafka(kafka))
    await Relay(events_database, publisher, telemetry).step()
    (record,) = await read(kafka, topic, 1)
    await publisher.close()
    assert (record.key, record.value) == (b"node-1", b'{"sequence": 7}')
    assert {name: value.decode() for name, value in record.headers} == {
        "ce_specversion": "1.0",
        "ce_id": sent.event_id,
        "ce_source": "/test",
        "ce_type": "test.counted",
        "ce_time": sent.time.isoformat().replace("+00:00", "Z"),
        "ce_subject": "node-1",
        "content-type": "application/json",
    }
    assert await waiting(events_database) == 0


async def test_a_rolled_back_event_is_never_published(
    events_database: Database, kafka: str, telemetry: Telemetry
) -> None:
    topic = new_topic("rollback")
    async with events_database.writing(SYSTEM) as connection:
        await append(connection, envelope(topic, "a", 1))
    await write(events_database, envelope(topic, "a", 2))
    publisher = KafkaPublisher(Kafka(kafka))
    await Relay(events_database, publisher, telemetry).step()
    records = await read(kafka, topic, 1)
    await publisher.close()
    assert sequences(records) == {"a": [2]}


async def test_two_relays_under_load_keep_the_order_of_each_key(
    events_database: Database, kafka: str, telemetry: Telemetry
) -> None:
    topic, keys, events = new_topic("two"), [f"node-{number}" for number in range(12)], 60
    relays = [Relay(events_database, KafkaPublisher(Kafka(kafka)), telemetry, settings=EAGER) for _ in range(2)]
    running = [asyncio.ensure_future(relay.run()) for relay in relays]

    async def produce(key: str) -> None:
        for sequence in range(events):
            await write(events_database, envelope(topic, key, sequence))

    await asyncio.gather(*(produce(key) for key in keys))
    await drained(events_database)
    await stop(running)
    records = await read(kafka, topic, len(keys) * events)
    assert sequences(records) == {key: list(range(events)) for key in keys}


async def test_writers_of_one_key_are_numbered_in_the_order_they_commit(events_database: Database) -> None:
    topic = new_topic("commit")
    async with events_database.writing(SYSTEM) as slow:
        await append(slow, envelope(topic, "a", 1))
        fast = asyncio.ensure_future(write(events_database, envelope(topic, "a", 2)))
        other_key = write(events_database, envelope(topic, "b", 1))
        await other_key
        assert not fast.done()
        await slow.commit()
        await fast
    async with events_database.reading(SYSTEM) as connection:
        rows = await connection.execute(select(outbox.c.event_id).where(outbox.c.key == "a").order_by(outbox.c.id))
    assert list(rows.scalars()) == [f"{topic}/a/1", f"{topic}/a/2"]


async def test_a_dead_broker_delays_events_and_nothing_else(
    events_database: Database, telemetry: Telemetry, tmp_path: Path
) -> None:
    topic, server = new_topic("dead"), Broker(free_port())
    relay = Relay(events_database, KafkaPublisher(Kafka(server.bootstrap_servers)), telemetry, settings=EAGER)
    running = [asyncio.ensure_future(relay.run())]
    process = start_broker(server, tmp_path / "log")
    try:
        await write(events_database, envelope(topic, "a", 0))
        await drained(events_database)
        process.kill()
        process.wait()
        for sequence in range(1, 200):
            await write(events_database, envelope(topic, "a", sequence), envelope(topic, "b", sequence))
        assert await waiting(events_database) == 2 * 199
        process = start_broker(server, tmp_path / "log")
        await drained(events_database)
        records = await read(server.bootstrap_servers, topic, 2 * 199)
        assert sequences(records) == {"a": list(range(1, 200)), "b": list(range(1, 200))}
    finally:
        await stop(running)
        process.kill()
        process.wait()


class DiesAfterPublishing:
    """A publisher whose process dies between the broker's answer and the mark."""

    def __init__(self, publisher: KafkaPublisher) -> None:
        self._publisher = publisher

    async def publish(self, records: Sequence[Record]) -> Delivery:
        await self._publisher.publish(records)
        raise SystemError("killed")

    async def close(self) -> None:
        await self._publisher.close()


async def test_a_crash_between_publishing_and_marking_repeats_events_and_loses_none(
    events_database: Database, kafka: str, telemetry: Telemetry
) -> None:
    topic = new_topic("crash")
    await write(events_database, *(envelope(topic, "a", sequence) for sequence in range(5)))
    dying, healthy = DiesAfterPublishing(KafkaPublisher(Kafka(kafka))), KafkaPublisher(Kafka(kafka))
    with pytest.raises(SystemError):
        await Relay(events_database, dying, telemetry).step()
    successor = Relay(events_database, healthy, telemetry)
    await successor.step()
    assert await waiting(events_database) == 0
    records = await read(kafka, topic, 10)
    await dying.close()
    await healthy.close()
    assert [header(record, "ce_id") for record in records[:5]] == [header(record, "ce_id") for record in records[5:]]
    assert sequences(records) == {"a": [0, 1, 2, 3, 4]}


async def test_a_stopped_relay_gives_back_what_it_holds(
    events_database: Database, kafka: str, telemetry: Telemetry
) -> None:
    topic = new_topic("release")
    await write(events_database, envelope(topic, "a", 1))
    stuck = Stuck()
    running = [asyncio.ensure_future(Relay(events_database, stuck, telemetry, settings=EAGER).run())]
    await asyncio.wait_for(stuck.asked.wait(), 10)
    await stop(running)
    publisher = KafkaPublisher(Kafka(kafka))
    await Relay(events_database, publisher, telemetry).step()
    await publisher.close()
    assert await waiting(events_database) == 0


async def test_what_a_relay_holds_that_is_there_is_left_to_it_until_its_lease_ends(
    events_database: Database, kafka: str, telemetry: Telemetry
) -> None:
    topic = new_topic("held")
    await write(events_database, envelope(topic, "a", 1))
    stuck, publisher = Stuck(), KafkaPublisher(Kafka(kafka))
    running = [asyncio.ensure_future(Relay(events_database, stuck, telemetry, settings=EAGER).run())]
    other = Relay(events_database, publisher, telemetry)
    try:
        await asyncio.wait_for(stuck.asked.wait(), 10)
        await other.step()
        assert await waiting(events_database) == 1
        await expire_leases(events_database)
        await other.step()
        assert await waiting(events_database) == 0
    finally:
        await stop(running)
        await publisher.close()


class Stuck:
    """A publisher that never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def publish(self, records: Sequence[Record]) -> Delivery:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError(records)

    async def close(self) -> None:
        """Has nothing to let go of."""


async def test_published_rows_go_after_their_retention_and_waiting_ones_stay(
    events_database: Database, kafka: str, telemetry: Telemetry
) -> None:
    topic = new_topic("retention")
    await write(events_database, envelope(topic, "old", 1), envelope(topic, "new", 1))
    publisher = KafkaPublisher(Kafka(kafka))
    await Relay(events_database, publisher, telemetry).step()
    await publisher.close()
    await write(events_database, envelope(topic, "waiting", 1))
    async with events_database.writing(SYSTEM) as connection:
        age = update(outbox).where(outbox.c.key != "new").values(created_at=func.now() - timedelta(hours=2))
        await connection.execute(age)
        old = update(outbox).where(outbox.c.key == "old").values(published_at=func.now() - timedelta(hours=2))
        await connection.execute(old)
        assert await Outbox(connection).purge(timedelta(hours=1), 100) == 1
        keys = await connection.scalars(select(outbox.c.key))
        assert set(keys) == {"new", "waiting"}


async def expire_leases(database: Database) -> None:
    async with database.writing(SYSTEM) as connection:
        await connection.execute(update(outbox).values(claimed_until=func.now() - timedelta(seconds=1)))
        await connection.commit()


async def stop(tasks: Sequence["asyncio.Future[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
