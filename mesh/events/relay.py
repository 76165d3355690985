"""The relay: publishes the outbox, in order per key, next to any number of other relays."""

import logging
from dataclasses import dataclass
from datetime import timedelta

from mesh.clock import Clock, SystemClock
from mesh.events.cloudevents import Envelope, headers_of
from mesh.events.kafka import Record
from mesh.events.outbox import Claimed, Outbox
from mesh.events.publisher import Publisher
from mesh.failpoints import failpoint
from mesh.identity import SYSTEM, new_id
from mesh.loops import Backoff, Wake, attempt, run_loop
from mesh.sql.database import Database
from mesh.sql.presence import Presence
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
        self._presence = Presence(database, self._name)
        self._failures = 0
        self._looked_at = float("-inf")
        self._published = telemetry.meter.create_counter(
            "outbox.published", description="Events that reached the broker."
        )
        self._failed = telemetry.meter.create_counter("outbox.failed", description="Events that did not, each time.")
        self._backlog = telemetry.meter.create_gauge("outbox.backlog", description="Events that wait.")
        self._age = telemetry.meter.create_gauge("outbox.age", unit="s", description="Age of the oldest of them.")

    async def run(self) -> None:
        """Relays until cancelled, then gives back what it holds."""
        try:
            await run_loop(
                "outbox relay", self._step_visibly, wake=self._wake, interval=self._settings.poll, backoff=BACKOFF
            )
        finally:
            await self._publisher.close()
            await attempt(self._release())
            await self._presence.end()

    async def step(self) -> timedelta | None:
        """Publishes one batch. Answers how long to wait before the next; None for the usual poll."""
        await self._look_after()
        claimed = await self._claim()
        if not claimed.envelopes:
            return None
        await failpoint("relay.claimed")
        delivered, error = await self._publish(claimed.envelopes)
        await failpoint("relay.published")
        await self._settle(claimed, delivered, error)
        await failpoint("relay.marked")
        if error:
            self._failures += 1
            return BACKOFF.pause(self._failures)
        self._failures = 0
        return timedelta(0) if claimed.full else None

    async def _step_visibly(self) -> timedelta | None:
        # What a relay claimed that is not there any more is anybody's.
        await self._presence.keep()
        return await self.step()

    async def _release(self) -> None:
        async with self._database.writing(SYSTEM) as connection:
            await Outbox(connection).release(self._name)
            await connection.commit()

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
            backlog = await table.backlog()
            await table.purge(self._settings.retention, self._settings.purge_batch)
            await connection.commit()
        self._backlog.set(backlog.count)
        self._age.set(backlog.age.total_seconds())
        if backlog.count >= self._settings.alarm_at:
            log.error("the outbox holds %d events, the oldest for %s", backlog.count, backlog.age)


def _record(envelope: Envelope, traceparent: str) -> Record:
    return Record(
        topic=envelope.topic,
        key=envelope.key.encode(),
        value=envelope.value.encode(),
        headers=headers_of(envelope, traceparent),
        timestamp_ms=int(envelope.time.timestamp() * 1000),
    )
