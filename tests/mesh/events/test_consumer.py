"""A consumer has the effect of each event once, and one event that cannot be handled stops nobody."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.events.cloudevents import headers_of
from mesh.events.failures import dead_letter_topic, retry_topic
from mesh.events.kafka import Record
from mesh.events.outbox import Envelope
from mesh.events.replay import replay
from mesh.sql.database import Database
from mesh.telemetry import Telemetry
from stack.broker import Broker
from stack.ports import free_port
from tests.fixtures.broker import start_broker
from tests.mesh.events.bench import Bench, make_tables, note
from tests.mesh.events.records import envelope, header, new_topic, read


class Fixable:
    """A handler with a bug about one event, until it is fixed."""

    def __init__(self, poison: int) -> None:
        self.poison = poison
        self.fixed = False
        self.attempts = 0

    async def __call__(self, connection: AsyncConnection, event: Envelope) -> None:
        await note(connection, event)
        if json.loads(event.value)["sequence"] == self.poison and not self.fixed:
            self.attempts += 1
            raise RuntimeError("no such\ncolour")


@pytest_asyncio.fixture
async def bench(empty_database: str, kafka: str, telemetry: Telemetry) -> AsyncIterator[Bench]:
    database = Database(empty_database)
    await make_tables(database)
    made = Bench(database, kafka, telemetry)
    yield made
    await made.publisher.close()
    await database.dispose()


async def test_an_event_that_comes_three_times_has_one_effect(bench: Bench) -> None:
    topic = new_topic("dup")
    events = [envelope(topic, "a", sequence) for sequence in range(3)]
    await bench.send(*events, *events, *events)
    await bench.send(envelope(topic, "a", 99))
    async with bench.consuming(bench.consumer([topic])):
        assert await bench.until(4) == [("a", 0), ("a", 1), ("a", 2), ("a", 99)]


async def test_unknown_types_and_newer_fields_pass_by(bench: Bench) -> None:
    topic = new_topic("unknown")
    newer = replace(envelope(topic, "a", 1), value='{"sequence": 1, "fieldOfTomorrow": {"deep": [1]}}')
    await bench.send(envelope(topic, "a", 0, "test.ofTomorrow"), newer)
    async with bench.consuming(bench.consumer([topic])):
        assert await bench.until(1) == [("a", 1)]


async def test_a_poison_event_goes_to_the_dead_letters_blocks_nobody_and_comes_back_after_the_fix(bench: Bench) -> None:
    topic, handler = new_topic("poison"), Fixable(poison=1)
    await bench.send(*(envelope(topic, "a", sequence) for sequence in range(4)))
    async with bench.consuming(bench.consumer([topic], {"test.counted": handler})):
        assert await bench.until(3) == [("a", 0), ("a", 2), ("a", 3)]
        (letter,) = await read(bench.kafka.bootstrap_servers, dead_letter_topic(topic, bench.group), 1)
        assert handler.attempts == 3
        retried = await read(bench.kafka.bootstrap_servers, retry_topic(topic, bench.group), 2)
        assert [header(record, "aiops_attempts") for record in retried] == ["1", "2"]
        assert (letter.key, json.loads(letter.value)) == (b"a", {"sequence": 1})
        assert header(letter, "ce_id") == f"{topic}/a/1"
        assert header(letter, "aiops_error") == "RuntimeError: no such colour"
        assert header(letter, "aiops_attempts") == "3"
        assert (header(letter, "aiops_origin_topic"), header(letter, "aiops_origin_offset")) == (topic, "1")
        assert header(letter, "aiops_first_failure")
        handler.fixed = True
        progress: list[int] = []
        assert await replay(bench.kafka, dead_letter_topic(topic, bench.group), on_progress=progress.append) == 1
        assert progress == [1]
        assert (await bench.until(4))[-1] == ("a", 1)
        assert await replay(bench.kafka, topic) == 0, "what was replayed is not replayed again"
        assert await replay(bench.kafka, topic, event_id=f"{topic}/a/1") == 1, "unless it is asked for by name"
        await bench.send(envelope(topic, "a", 4))
        assert await bench.until(5) == [("a", 0), ("a", 2), ("a", 3), ("a", 1), ("a", 4)]


async def test_a_record_that_is_no_event_goes_to_the_dead_letters(bench: Bench) -> None:
    topic = new_topic("malformed")
    good = envelope(topic, "a", 1)
    bad = [
        Record(topic, b"a", b"{}", []),
        Record(topic, b"a", b"\xff\xfe", headers_of(good)),
        Record(topic, b"a", b"not json", headers_of(good)),
        Record(topic, b"a", b"{}", [*headers_of(good), ("aiops_attempts", b"many")]),
    ]
    assert (await bench.publisher.publish(bad)).error == ""
    await bench.send(good)
    async with bench.consuming(bench.consumer([topic])):
        assert await bench.until(1) == [("a", 1)]
        letters = await read(bench.kafka.bootstrap_servers, dead_letter_topic(topic, bench.group), len(bad))
    assert [letter.value for letter in letters] == [record.value for record in bad]
    assert all(header(letter, "aiops_error") for letter in letters)


async def test_a_second_member_takes_over_and_nothing_has_two_effects(bench: Bench) -> None:
    topic, keys, events = new_topic("rebalance"), [f"k{number}" for number in range(8)], 10
    first, second = bench.consumer([topic]), bench.consumer([topic])
    async with bench.consuming(second):
        async with bench.consuming(first):
            await bench.send(*(envelope(topic, key, sequence) for sequence in range(events) for key in keys))
            await bench.until(len(keys) * events // 2)
        await bench.send(*(envelope(topic, key, sequence) for sequence in range(events, 2 * events) for key in keys))
        found = await bench.until(len(keys) * events * 2)
    assert sorted(found) == sorted((key, sequence) for key in keys for sequence in range(2 * events))


async def test_a_consumer_survives_its_broker(bench: Bench, tmp_path: Path) -> None:
    topic, server = new_topic("broker"), Broker(free_port())
    remote = Bench(bench.database, server.bootstrap_servers, bench.telemetry)
    async with bench.consuming(remote.consumer([topic])):
        process = start_broker(server, tmp_path / "log")
        try:
            await remote.send(envelope(topic, "a", 1))
            await bench.until(1)
            process.kill()
            process.wait()
            process = start_broker(server, tmp_path / "log")
            await remote.send(envelope(topic, "a", 2), envelope(topic, "b", 2))
            assert sorted(await bench.until(3)) == [("a", 1), ("a", 2), ("b", 2)]
        finally:
            process.kill()
            process.wait()
            await remote.publisher.close()
