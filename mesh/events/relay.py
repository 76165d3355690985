"""The relay: publishes the outbox, in order per key, next to any number of other relays."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from opentelemetry.metrics import CallbackOptions, Observation

from mesh.clock import Clock, SystemClock
from mesh.events.cloudevents import Envelope, headers_of
from mesh.events.kafka import Record
from mesh.events.outbox import Backlog, Claimed, Outbox
from mesh.events.publisher import Publisher
from mesh.identity import SYSTEM, new_id
from mesh.loops import Backoff, Wake, run_loop
from mesh.sql.database import Database
from mesh.telemetry import Telemetry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How a relay works. The lease must be longer than a publication can take, or others repeat it."""

    batch: int = 500
    poll: timedelta = timedelta(seconds=1)
    lease: timedelta = timedelta(seconds=40)
    retention: timedelta = timedelta(hours=1)
    look_after: timedelta = timedelta(seconds=5)
    purge_batch: int = 5_000
    alarm_at: int = 10_000


BACKOFF = Backoff(first=timedelta(milliseconds=200), limit=timedelta(seconds=5))


class Relay:
    """One relay. What it claims it publishes, then marks; a crash in between repeats events and loses none."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        telemetry: Telemetry,
        *,
        wake: Wake | None = None,
        clock: Clock | None = None,
        settings: RelaySettings | None = None,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._messages = telemetry.messages
        self._wake = wake or Wake()
        self._clock = clock or SystemClock()
        self._settings = settings or RelaySettings()
        self._name = new_id("relay")
        self._failures = 0
        self._looked_at = float("-inf")
        self._backlog = Backlog(0, None)
        self._published = telemetry.meter.create_counter(
            "outbox.published", description="Events that reached the broker."
        )
        self._failed = telemetry.meter.create_counter("outbox.failed", description="Events that did not, each time.")
        telemetry.meter.create_observable_gauge("outbox.backlog", [self._count], description="Events that wait.")
        telemetry.meter.create_observable_gauge(
            "outbox.age", [self._age], unit="s", description="Age of the oldest of them."
        )

    async def run(self) -> None:
        """Relays until cancelled, then gives back what it holds."""
        try:
            await run_loop("outbox relay", self.step, wake=self._wake, interval=self._settings.poll)
        finally:
            await self._publisher.close()
            async with self._database.writing(SYSTEM) as connection:
                await Outbox(connection).release(self._name)
                await connection.commit()

    async def step(self) -> timedelta | None:
        """Publishes one batch. Answers how long to wait before the next; None for the usual poll."""
        await self._look_after()
        claimed = await self._claim()
        if not claimed.envelopes:
            return None
        delivered, error = await self._publish(claimed.envelopes)
        await self._settle(claimed, delivered, error)
        if error:
            self._failures += 1
            return BACKOFF.pause(self._failures)
        self._failures = 0
        return timedelta(0) if claimed.full else None

    async def _claim(self) -> Claimed:
        async with self._database.writing(SYSTEM) as connection:
            claimed = await Outbox(connection).claim(self._name, self._settings.lease, self._settings.batch)
            await connection.commit()
            return claimed

    async def _publish(self, envelopes: list[Envelope]) -> tuple[list[Envelope], str]:
        spans = [self._messages.start_publishing(each.topic, each.traceparent) for each in envelopes]
        records = [_record(each, span.traceparent) for each, span in zip(envelopes, spans, strict=True)]
        delivery = await self._publisher.publish(records)
        delivered = set(delivery.delivered)
        for position, span in enumerate(spans):
            span.finish("" if position in delivered else delivery.error or "not tried")
        return [envelopes[position] for position in sorted(delivered)], delivery.error

    async def _settle(self, claimed: Claimed, delivered: list[Envelope], error: str) -> None:
        done = {claimed.ids[each.event_id] for each in delivered}
        left = set(claimed.ids.values()) - done
        async with self._database.writing(SYSTEM) as connection:
            table = Outbox(connection)
            if done:
                await table.mark_published(done)
            if left:
                await table.release_failed(left, error)
            await connection.commit()
        self._published.add(len(done))
        self._failed.add(len(left))
        if left and self._failures == 0:
            log.warning("events wait in the outbox, %d could not be published: %s", len(left), error)
        if done and self._failures:
            log.info("the broker takes events again")

    async def _look_after(self) -> None:
        """Counts the backlog and purges what is old, now and then."""
        now = self._clock.monotonic()
        if now - self._looked_at < self._settings.look_after.total_seconds():
            return
        self._looked_at = now
        async with self._database.writing(SYSTEM) as connection:
            table = Outbox(connection)
            self._backlog = await table.backlog()
            await table.purge(self._settings.retention, self._settings.purge_batch)
            await connection.commit()
        if self._backlog.count >= self._settings.alarm_at:
            log.error("the outbox holds %d events, the oldest since %s", self._backlog.count, self._backlog.oldest)

    def _count(self, _: CallbackOptions) -> Iterable[Observation]:
        yield Observation(self._backlog.count)

    def _age(self, _: CallbackOptions) -> Iterable[Observation]:
        oldest = self._backlog.oldest
        yield Observation(0.0 if oldest is None else max(0.0, time.time() - oldest.timestamp()))


def _record(envelope: Envelope, traceparent: str) -> Record:
    return Record(
        topic=envelope.topic,
        key=envelope.key.encode(),
        value=envelope.value.encode(),
        headers=headers_of(envelope, traceparent),
        timestamp_ms=int(envelope.time.timestamp() * 1000),
    )
