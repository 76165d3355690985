"""Gives dead letters another chance: back to the topic they came from, once the cause is mended."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import timedelta

from aiokafka import AIOKafkaConsumer

from mesh.errors import DomainError, Kind
from mesh.events.failures import DEAD_LETTERS, History, moved
from mesh.events.kafka import BrokerError, ConsumerRecord, Kafka, TopicPartition
from mesh.events.publisher import KafkaPublisher

# The group whose committed offsets say which dead letters were replayed.
GROUP = "aiops-replay"
QUIET = timedelta(seconds=1)


class DeadLetterNotFoundError(DomainError):
    """No dead letter has that event id, or the topic has none."""

    kind, reason = Kind.NOT_FOUND, "DEAD_LETTER_NOT_FOUND"


async def replay(
    kafka: Kafka,
    topic: str,
    *,
    limit: int | None = None,
    event_id: str = "",
    on_progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Moves the dead letters of a topic back to where they came from; answers how many.

    `topic` is a dead-letter topic, or the origin of any number of them. What was moved by an earlier call is not moved
    again, unless it is asked for by its event id. Raises DeadLetterNotFoundError when there is no such topic or event,
    and BrokerError.
    """
    names = await _dead_letter_topics(kafka, topic)
    publisher = KafkaPublisher(kafka)
    moved_so_far = 0
    try:
        async with kafka.consumer(GROUP) as consumer:
            await _start(consumer, names, from_the_beginning=bool(event_id))
            async with aclosing(_letters(consumer)) as letters:
                async for letter in letters:
                    if limit is not None and moved_so_far >= limit:
                        break
                    if event_id and _event_id(letter) != event_id:
                        continue
                    await _send_back(publisher, letter)
                    if not event_id:
                        await consumer.commit({TopicPartition(letter.topic, letter.partition): letter.offset + 1})
                    moved_so_far += 1
                    on_progress(moved_so_far)
    finally:
        await publisher.close()
    if event_id and not moved_so_far:
        raise DeadLetterNotFoundError(f"no dead letter of {topic} is event {event_id}", topic=topic, event_id=event_id)
    return moved_so_far


async def _dead_letter_topics(kafka: Kafka, topic: str) -> list[str]:
    known = await kafka.list_topics()
    found = sorted(
        name for name in known if name.endswith(DEAD_LETTERS) and (name == topic or name.startswith(f"{topic}."))
    )
    if not found:
        raise DeadLetterNotFoundError(f"there are no dead letters of {topic}", topic=topic)
    return found


async def _start(consumer: AIOKafkaConsumer, topics: list[str], *, from_the_beginning: bool) -> None:
    partitions = [
        TopicPartition(topic, number)
        for topic in topics
        for number in sorted(await consumer._client._wait_on_metadata(topic))
    ]
    consumer.assign(partitions)
    if from_the_beginning:
        await consumer.seek_to_beginning(*partitions)


async def _letters(consumer: AIOKafkaConsumer) -> AsyncGenerator[ConsumerRecord, None]:
    """Every record there is; ends when none comes for a while, since not every broker tells the true end."""
    while batches := await consumer.getmany(timeout_ms=int(QUIET.total_seconds() * 1000)):
        for records in batches.values():
            for record in records:
                yield record


async def _send_back(publisher: KafkaPublisher, letter: ConsumerRecord) -> None:
    delivery = await publisher.publish([moved(letter, History.of(letter).topic, None)])
    if delivery.error:
        raise BrokerError(delivery.error)


def _event_id(letter: ConsumerRecord) -> str:
    raw: bytes = dict(letter.headers).get("ce_id", b"")
    return raw.decode(errors="replace")
