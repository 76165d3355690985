"""Consumers: each event has its effect once, and one that cannot be handled stops nobody."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError, IllegalStateError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock, SystemClock
from mesh.errors import UnavailableError
from mesh.events.cloudevents import Envelope, MalformedEventError, envelope_of
from mesh.events.consumed import ConsumedEvents, consumed_events
from mesh.events.failures import History, bury, dead_letter_topic, hand_over, moved, retry_topic
from mesh.events.kafka import BrokerError, ConsumerRecord, Kafka, TopicPartition
from mesh.events.publisher import KafkaPublisher
from mesh.identity import SYSTEM
from mesh.loops import Backoff, Wake, attempt, run_loop
from mesh.patience import within
from mesh.sql.database import Database
from mesh.telemetry import Telemetry

__all__ = ["Consumer", "ConsumerSettings", "Handler", "consumed_events"]

log = logging.getLogger(__name__)
Handler = Callable[[AsyncConnection, Envelope], Awaitable[None]]
"""Has the effect of an event, on the connection whose transaction remembers the event; does not commit."""

RETRY_BACKOFF = Backoff(first=timedelta(seconds=1), limit=timedelta(seconds=30))
# How many failures in a row the pause after an absent database is worth.
DATABASE_FAILURES = 4
RECONNECT_BACKOFF = Backoff(first=timedelta(milliseconds=200), limit=timedelta(seconds=5))


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """How a consumer works. A batch at its slowest must be done before the broker gives the consumer up (300 s)."""

    attempts: int = 3
    batch: int = 20
    handler_timeout: timedelta = timedelta(seconds=10)
    poll: timedelta = timedelta(milliseconds=500)
    retention: timedelta = timedelta(days=14)
    forget_every: timedelta = timedelta(hours=1)


class Outcome(Enum):
    """What became of a record."""

    HANDLED = "handled"
    REPEATED = "repeated"
    IGNORED = "ignored"
    RETRIED = "retried"
    DEAD = "dead"


class Consumer:
    """One member of a consumer group. `handlers` are by event type; types without one are counted and passed over.

    An event that fails waits on `<topic>.<group>.retry` and is tried again, while those behind it go on; after the
    last attempt it goes to `<topic>.<group>.dlq` with its cause. While the database is away nothing is tried. `wrote`
    is set after each effect: for the relay, when handlers write events of their own.
    """

    def __init__(
        self,
        group: str,
        topics: Sequence[str],
        handlers: Mapping[str, Handler],
        *,
        database: Database,
        kafka: Kafka,
        telemetry: Telemetry,
        clock: Clock | None = None,
        settings: ConsumerSettings | None = None,
        backoff: Backoff = RETRY_BACKOFF,
        wrote: Wake | None = None,
    ) -> None:
        self.group = group
        self._topics = [*topics, *(retry_topic(topic, group) for topic in topics)]
        self._dead_letters = [dead_letter_topic(topic, group) for topic in topics]
        self._handlers = handlers
        self._database = database
        self._kafka = kafka
        self._publisher = KafkaPublisher(kafka)
        self._messages = telemetry.messages
        self._clock = clock or SystemClock()
        self._settings = settings or ConsumerSettings()
        self._backoff = backoff
        self._wrote = wrote
        self._outcomes = telemetry.meter.create_counter(
            "events.consumed", description="Records, by what became of them."
        )
        self._lag = telemetry.meter.create_gauge(
            "events.lag", description="Records that wait, where the consumer was last."
        )
        self._resume_at: dict[TopicPartition, datetime] = {}
        self._failures = 0
        self._state = ""
        self._forgot_at = float("-inf")

    async def run(self) -> None:
        """Consumes until cancelled."""
        try:
            await run_loop(
                f"consumer {self.group}", self._session, interval=timedelta(seconds=1), backoff=RECONNECT_BACKOFF
            )
        finally:
            await self._publisher.close()

    async def _session(self) -> timedelta:
        """Consumes until the broker fails; answers how long to wait before connecting again."""
        try:
            await self._kafka.ensure_topics([*self._topics, *self._dead_letters])
            async with self._kafka.consumer(self.group, self._topics) as consumer:
                self._resume_at.clear()
                self._say("consumes", logging.INFO)
                while True:
                    await self._round(consumer)
        except BrokerError as error:
            self._failures += 1
            self._say(f"waits for the broker: {error}", logging.WARNING)
            return RECONNECT_BACKOFF.pause(self._failures)

    async def _round(self, consumer: AIOKafkaConsumer) -> None:
        await self._forget_when_due()
        self._resume(consumer)
        poll_ms = int(self._settings.poll.total_seconds() * 1000)
        batches = await consumer.getmany(timeout_ms=poll_ms, max_records=self._settings.batch)
        for partition, records in batches.items():
            try:
                await self._work_off(consumer, partition, records)
            except (CommitFailedError, IllegalStateError) as error:
                log.info("consumer %s lost partition %s: %s", self.group, partition, error)
            self._failures = 0

    async def _work_off(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, records: Sequence[ConsumerRecord]
    ) -> None:
        """Handles records of one partition, then commits how far it came."""
        done: int | None = None
        for record in records:
            wait_until = await self._handle(record)
            if wait_until is not None:
                consumer.seek(partition, record.offset)
                consumer.pause(partition)
                self._resume_at[partition] = wait_until
                break
            done = record.offset + 1
        if done is not None:
            await consumer.commit({partition: done})
            behind = max(0, (consumer.highwater(partition) or done) - done)
            self._lag.set(behind, {"consumer": self.group, "topic": partition.topic, "partition": partition.partition})

    async def _handle(self, record: ConsumerRecord) -> datetime | None:
        """Sees to one record; answers when to come back to it, if it is not its time yet."""
        now = self._clock.now()
        try:
            history = History.of(record)
            event = envelope_of(record.topic, record.key, record.value, record.headers)
        except (MalformedEventError, ValueError) as error:
            await self._bury(record, History(record.topic, record.partition, record.offset).failed(error, now))
            return None
        if history.retry_at is not None and history.retry_at > now:
            return history.retry_at
        handler = self._handlers.get(event.type)
        if handler is None:
            self._count(Outcome.IGNORED)
            return None
        failure = await attempt(self._effect(handler, event, record.topic))
        if failure is None:
            return None
        if isinstance(failure, UnavailableError) and not await self._database_answers():
            return now + RECONNECT_BACKOFF.pause(DATABASE_FAILURES)
        await self._retry_or_bury(record, history.failed(failure, now))
        return None

    async def _effect(self, handler: Handler, event: Envelope, topic: str) -> None:
        """The handler's effect and the memory of it, in one transaction."""
        limit = self._settings.handler_timeout.total_seconds()
        with self._messages.consuming(topic, self.group, event.traceparent):
            unfinished = f"the handler of {event.type} did not end"
            async with within(limit, unfinished), self._database.writing(SYSTEM) as connection:
                new = await ConsumedEvents(connection).remember(self.group, event.event_id)
                if new:
                    await handler(connection, event)
                await connection.commit()
        self._count(Outcome.HANDLED if new else Outcome.REPEATED)
        if new and self._wrote is not None:
            self._wrote.set()

    async def _retry_or_bury(self, record: ConsumerRecord, history: History) -> None:
        if history.attempts >= self._settings.attempts:
            await self._bury(record, history)
            return
        log.info("consumer %s tries %s again: %s", self.group, _name(record), history.error)
        due = history.due_in(self._backoff.pause(history.attempts), self._clock.now())
        await hand_over(self._publisher, moved(record, retry_topic(history.topic, self.group), due))
        self._count(Outcome.RETRIED)

    async def _bury(self, record: ConsumerRecord, history: History) -> None:
        await bury(self._publisher, record, self.group, history)
        self._count(Outcome.DEAD)

    async def _database_answers(self) -> bool:
        try:
            async with self._database.reading(SYSTEM) as connection:
                await connection.execute(text("SELECT 1"))
        except UnavailableError:
            return False
        return True

    def _resume(self, consumer: AIOKafkaConsumer) -> None:
        now = self._clock.now()
        for partition in [each for each, at in self._resume_at.items() if at <= now]:
            del self._resume_at[partition]
            if partition in consumer.assignment():
                consumer.resume(partition)

    async def _forget_when_due(self) -> None:
        now = self._clock.monotonic()
        if now - self._forgot_at >= self._settings.forget_every.total_seconds():
            self._forgot_at = now
            await attempt(self._forget())

    async def _forget(self) -> None:
        async with self._database.writing(SYSTEM) as connection:
            await ConsumedEvents(connection).forget(self._settings.retention)
            await connection.commit()

    def _count(self, outcome: Outcome) -> None:
        self._outcomes.add(1, {"consumer": self.group, "outcome": outcome.value})

    def _say(self, state: str, level: int) -> None:
        """Logs a change of state once."""
        if state != self._state:
            self._state = state
            log.log(level, "consumer %s %s", self.group, state)


def _name(record: ConsumerRecord) -> str:
    return f"{record.topic}/{record.partition}@{record.offset}"
