"""A consumer for events that come by the thousand: whole batches have their effect in one transaction.

Unlike `Consumer` it remembers no event: the effect must know by the events' own ids what it has had already.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Generic, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError, IllegalStateError

from mesh.clock import Clock, SystemClock
from mesh.errors import DomainError, UnavailableError
from mesh.events.cloudevents import Envelope, MalformedEventError, envelope_of
from mesh.events.failures import History, bury, dead_letter_topic
from mesh.events.kafka import BrokerError, ConsumerRecord, Kafka, TopicPartition
from mesh.events.publisher import KafkaPublisher
from mesh.loops import Backoff, attempt, run_loop
from mesh.telemetry import Telemetry

log = logging.getLogger(__name__)
Item = TypeVar("Item")
BATCH = 500
POLL_MS = 500
AGAIN = Backoff(first=timedelta(milliseconds=200), limit=timedelta(seconds=5))


class BatchConsumer(Generic[Item]):
    """One member of a consumer group that reads a topic.

    `read` makes an item of an event, or answers None for one that is none of its business; it raises a DomainError for
    one that is broken. `effect` takes a batch of items. An item whose effect fails goes to `<topic>.<group>.dlq`
    alone, with its cause. While the effect's database is away nothing is lost and nothing is passed over.
    """

    def __init__(
        self,
        group: str,
        topic: str,
        read: Callable[[Envelope], Item | None],
        effect: Callable[[Sequence[Item]], Awaitable[object]],
        *,
        kafka: Kafka,
        telemetry: Telemetry,
        clock: Clock | None = None,
    ) -> None:
        self.group = group
        self._topic = topic
        self._dead_letters = dead_letter_topic(topic, group)
        self._read = read
        self._effect = effect
        self._kafka = kafka
        self._publisher = KafkaPublisher(kafka)
        self._clock = clock or SystemClock()
        self._failures = 0
        self._consumed = telemetry.meter.create_counter("events.batched", description="Records read in batches.")

    async def run(self) -> None:
        """Consumes until cancelled."""
        try:
            await run_loop(f"consumer {self.group}", self._session, interval=timedelta(seconds=1), backoff=AGAIN)
        finally:
            await self._publisher.close()

    async def _session(self) -> timedelta:
        try:
            await self._kafka.ensure_topics([self._topic, self._dead_letters])
            async with self._kafka.consumer(self.group, [self._topic]) as consumer:
                while True:
                    await self._round(consumer)
        except (BrokerError, UnavailableError) as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("consumer %s waits: %s", self.group, error)
            return AGAIN.pause(self._failures)

    async def _round(self, consumer: AIOKafkaConsumer) -> None:
        batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH)
        for partition, records in batches.items():
            await self._have_effect(records)
            try:
                await consumer.commit({partition: records[-1].offset + 1})
            except (CommitFailedError, IllegalStateError) as error:
                log.info("consumer %s lost partition %s: %s", self.group, _name(partition), error)
            self._consumed.add(len(records), {"consumer": self.group})
        if self._failures:
            log.info("consumer %s goes on", self.group)
        self._failures = 0

    async def _have_effect(self, records: Sequence[ConsumerRecord]) -> None:
        """The whole batch at once, or where that fails each by itself."""
        items = [read for record in records if (read := await self._item(record)) is not None]
        failure = await attempt(self._effect([item for _, item in items])) if items else None
        if isinstance(failure, UnavailableError):
            raise failure
        if failure is not None:
            log.warning("a batch of consumer %s failed, its events are tried one by one: %s", self.group, failure)
            for record, item in items:
                await self._have_effect_alone(record, item)

    async def _have_effect_alone(self, record: ConsumerRecord, item: Item) -> None:
        failure = await attempt(self._effect([item]))
        if isinstance(failure, UnavailableError):
            raise failure
        if failure is not None:
            await self._bury(record, failure)

    async def _item(self, record: ConsumerRecord) -> tuple[ConsumerRecord, Item] | None:
        try:
            item = self._read(envelope_of(record.topic, record.key, record.value, record.headers))
        except (MalformedEventError, DomainError) as error:
            await self._bury(record, error)
            return None
        return None if item is None else (record, item)

    async def _bury(self, record: ConsumerRecord, error: Exception) -> None:
        history = History(record.topic, record.partition, record.offset).failed(error, self._clock.now())
        await bury(self._publisher, record, self.group, history)


def _name(partition: TopicPartition) -> str:
    return f"{partition.topic}-{partition.partition}"
