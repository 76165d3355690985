"""Writes records to Kafka so that what is lost or left behind never overtakes what came before it."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from mesh.events.kafka import CALL_TIMEOUT_S, BrokerError, Kafka, Record, close_producer
from mesh.patience import within


@dataclass(slots=True)
class Delivery:
    """What became of some records: the positions that the broker has, and why the others are not there."""

    delivered: list[int] = field(default_factory=list)
    error: str = ""


class Publisher(Protocol):
    """Something that publishes records in order."""

    async def publish(self, records: Sequence[Record]) -> Delivery:
        """Publishes in order per key. Does not raise for a broker that is away: the delivery says so."""
        ...

    async def close(self) -> None:
        """Lets go of the broker."""
        ...


class KafkaPublisher:
    """Publishes to a cluster; connects when first asked, and again after a failure."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._producer: AIOKafkaProducer | None = None
        self._known_topics: set[str] = set()

    async def publish(self, records: Sequence[Record]) -> Delivery:
        """Publishes in order per key: a partition's batches follow each other, and the first failure ends its row.

        Each batch is one request that the broker takes whole or not at all; partitions go side by side.
        """
        delivery = Delivery()
        try:
            async with within(CALL_TIMEOUT_S, f"the broker did not take {len(records)} events"):
                producer = await self._open({record.topic for record in records})
                by_partition = await self._sorted(producer, records)
                rows = (self._send(producer, row, records, delivery) for row in by_partition.items())
                for failure in await asyncio.gather(*rows, return_exceptions=True):
                    if failure is not None:
                        raise failure
        except (BrokerError, KafkaError, TimeoutError) as error:
            delivery.error = str(error) or type(error).__name__
            await self.close()
        return delivery

    async def close(self) -> None:
        """Lets go of the broker; nothing that was given up on is sent later."""
        producer, self._producer = self._producer, None
        self._known_topics.clear()
        if producer is not None:
            await close_producer(producer)

    async def _open(self, topics: set[str]) -> AIOKafkaProducer:
        if self._producer is None:
            self._producer = await self._kafka.open_producer()
        if missing := topics - self._known_topics:
            await self._kafka.ensure_topics(missing)
            self._known_topics |= missing
        # A broker that came back without its topics must hear of them before it gets records: the embedded one takes
        # records of a topic that it does not know, and numbers them wrongly.
        if not await self._producer.client.force_metadata_update():
            raise BrokerError("the broker does not answer")
        return self._producer

    async def _sorted(self, producer: AIOKafkaProducer, records: Sequence[Record]) -> dict[tuple[str, int], list[int]]:
        topics = {record.topic for record in records}
        partitions = {topic: await producer.partitions_for(topic) for topic in topics}

        def place(position: int) -> tuple[str, int]:
            record = records[position]
            return record.topic, self._kafka.partition_of(record.key, partitions[record.topic])

        return _grouped(range(len(records)), place)

    async def _send(
        self,
        producer: AIOKafkaProducer,
        row: tuple[tuple[str, int], list[int]],
        records: Sequence[Record],
        delivery: Delivery,
    ) -> None:
        (topic, partition), positions = row
        while positions:
            batch = producer.create_batch()
            size = 0
            while size < len(positions) and _append(batch, records[positions[size]]):
                size += 1
            acknowledged = await producer.send_batch(batch, topic, partition=partition)
            await acknowledged
            delivery.delivered.extend(positions[:size])
            positions = positions[size:]


def _append(batch: BatchBuilder, record: Record) -> bool:
    """Puts a record into the batch, unless the batch is full; the first always fits."""
    added = batch.append(
        timestamp=record.timestamp_ms, key=record.key, value=record.value, headers=list(record.headers)
    )
    return added is not None


Key = TypeVar("Key", bound=Hashable)


def _grouped(positions: Iterable[int], key: Callable[[int], Key]) -> dict[Key, list[int]]:
    groups: dict[Key, list[int]] = defaultdict(list)
    for position in positions:
        groups[key(position)].append(position)
    return groups
