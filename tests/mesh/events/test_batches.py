"""Batches have their effect once the database is there; what is broken goes its own way and stops nobody."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from mesh.errors import UnavailableError
from mesh.events.batches import BatchConsumer
from mesh.events.cloudevents import Envelope, MalformedEventError, headers_of
from mesh.events.failures import dead_letter_topic
from mesh.events.kafka import Kafka, Record
from mesh.events.publisher import KafkaPublisher
from mesh.telemetry import Telemetry
from tests.fakes.eventually import eventually
from tests.mesh.events.records import envelope, header, new_topic, read


class Numbers:
    """An effect that keeps numbers, each once; the database may be away, and some numbers do not fit it."""

    def __init__(self) -> None:
        self.kept: set[int] = set()
        self.away = False
        self.refused = -1
        self.calls = 0

    async def __call__(self, batch: Sequence[int]) -> None:
        self.calls += 1
        if self.away:
            raise UnavailableError("the database is not reachable")
        if self.refused in batch:
            raise RuntimeError("no such number")
        self.kept.update(batch)


def number_of(event: Envelope) -> int | None:
    sequence = json.loads(event.value).get("sequence")
    if sequence is None:
        raise MalformedEventError("no number")
    return None if sequence == 99 else int(sequence)


@asynccontextmanager
async def consuming(
    kafka: str, topic: str, effect: Numbers, telemetry: Telemetry, group: str = "numbers"
) -> AsyncIterator[None]:
    consumer = BatchConsumer(group, topic, number_of, effect, kafka=Kafka(kafka), telemetry=telemetry)
    running = asyncio.ensure_future(consumer.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def publish(kafka: str, topic: str, *values: str) -> None:
    publisher = KafkaPublisher(Kafka(kafka))
    events = [envelope(topic, "key", number) for number in range(len(values))]
    records = [
        Record(topic, event.key.encode(), value.encode(), headers_of(event))
        for event, value in zip(events, values, strict=True)
    ]
    assert not (await publisher.publish(records)).error
    await publisher.close()


def kept(effect: Numbers, *wanted: int) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return effect.kept == set(wanted)

    return check


def sequence(number: int) -> str:
    return json.dumps({"sequence": number})


async def test_batches_are_committed_and_a_member_that_comes_later_goes_on(kafka: str, telemetry: Telemetry) -> None:
    topic, effect = new_topic("numbers"), Numbers()
    await publish(kafka, topic, *map(sequence, range(40)))
    async with consuming(kafka, topic, effect, telemetry):
        await eventually(kept(effect, *range(40)), 30)
    assert effect.calls < 40
    await publish(kafka, topic, sequence(40), sequence(99), sequence(41))
    async with consuming(kafka, topic, effect, telemetry):
        await eventually(kept(effect, *range(42)), 30)


async def test_while_the_database_is_away_nothing_is_passed_over(kafka: str, telemetry: Telemetry) -> None:
    topic, effect = new_topic("numbers"), Numbers()
    effect.away = True
    await publish(kafka, topic, *map(sequence, range(5)))
    async with consuming(kafka, topic, effect, telemetry):

        async def tried() -> bool:
            return effect.calls > 1

        await eventually(tried, 30)
        effect.away = False
        await eventually(kept(effect, *range(5)), 30)


async def test_what_is_broken_or_refused_goes_to_the_dead_letters_alone(kafka: str, telemetry: Telemetry) -> None:
    topic, effect = new_topic("numbers"), Numbers()
    effect.refused = 2
    await publish(kafka, topic, sequence(1), "no json", "{}", sequence(2), sequence(3))
    async with consuming(kafka, topic, effect, telemetry):
        await eventually(kept(effect, 1, 3), 30)
        letters = await read(kafka, dead_letter_topic(topic, "numbers"), 3)
    assert sorted(letter.value for letter in letters) == sorted([b"no json", b"{}", sequence(2).encode()])
    assert all(header(letter, "aiops_error") for letter in letters)
