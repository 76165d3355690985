"""Tells Kafka what requests used: from Envoy's journal, in order, until the broker has it."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from aiops.usage.v1 import usage_events_pb2 as pb
from opentelemetry.metrics import Meter

from gateway.usage.journal import CHUNK, Journal, Lines
from gateway.usage.record import record
from mesh.events.cloudevents import Envelope, headers_of
from mesh.events.kafka import Record
from mesh.events.publisher import Publisher
from mesh.flat_json import FlatJson
from mesh.loops import Backoff

log = logging.getLogger(__name__)
TOPIC = "aiops.usage.v1"
TYPE = "usage.recorded"
SOURCE = "/aiops/gateway"
AGAIN = Backoff(first=timedelta(milliseconds=200), limit=timedelta(seconds=5))
LOOK_EVERY = timedelta(milliseconds=500)
_JSON = FlatJson(pb.UsageRecorded)


class Forwarder:
    """Tells on what the journal has. What a crash makes it tell twice has the same id both times."""

    def __init__(self, open_journal: Callable[[], Journal], publisher: Publisher, meter: Meter) -> None:
        self._open_journal = open_journal
        self._journal: Journal | None = None
        self._publisher = publisher
        self._failures = 0
        self._told = meter.create_counter("gateway.usage.told", description="Requests whose usage Kafka has.")
        self._broken = meter.create_counter("gateway.usage.broken", description="Lines of the journal that are none.")
        self._waiting = meter.create_gauge("gateway.usage.waiting", description="Bytes of usage that wait on disk.")

    async def step(self) -> timedelta:
        """Tells some of what waits; answers how long to pause."""
        try:
            if self._journal is None:
                self._journal = await asyncio.to_thread(self._open_journal)
            journal = self._journal
            lines = await asyncio.to_thread(journal.read)
            error = await self._tell(lines, journal.identity)
            if not error and lines.every:
                await asyncio.to_thread(journal.forget, lines.end)
        except OSError as failure:
            error = f"its journal cannot be read: {failure}"
        else:
            self._waiting.set(journal.waiting_bytes())
        if error:
            return self._complain(error)
        if self._failures:
            log.info("usage is told again")
        self._failures = 0
        # Each step costs a write to the disk and a few words with the broker: less than a chunk waits for more.
        return timedelta(0) if lines.every and journal.waiting_bytes() >= CHUNK else LOOK_EVERY

    async def close(self) -> None:
        """Lets go of the broker and of the journal."""
        await self._publisher.close()
        if self._journal is not None:
            await asyncio.to_thread(self._journal.close)

    async def _tell(self, lines: Lines, identity: str) -> str:
        """Publishes; why the broker has not taken all of it, or empty."""
        events = await asyncio.to_thread(lambda: [event(used) for used in self._records(lines, identity)])
        delivery = await self._publisher.publish(events) if events else None
        if delivery is None:
            return ""
        self._told.add(len(delivery.delivered))
        return delivery.error and f"the broker does not take it: {delivery.error}"

    def _records(self, lines: Lines, identity: str) -> Iterator[pb.UsageRecorded]:
        for offset, line in lines.every:
            try:
                used = record(line, f"{identity}-{offset:x}")
            except (ValueError, TypeError, KeyError) as error:
                self._broken.add(1)
                log.error("a line of the journal is lost: %s", error)
                continue
            if used is not None:
                yield used

    def _complain(self, error: str) -> timedelta:
        if self._failures == 0:
            log.warning("usage waits on disk, %s", error)
        self._failures += 1
        return AGAIN.pause(self._failures)


def event(used: pb.UsageRecorded) -> Record:
    """The CloudEvent of a request's usage."""
    envelope = Envelope(
        event_id=used.usage_id,
        type=TYPE,
        source=SOURCE,
        subject=used.usage_id,
        topic=TOPIC,
        key=used.usage_id,
        time=datetime.fromtimestamp(used.started_at / 1000, UTC),
        value=_JSON.write(used),
    )
    return Record(
        topic=TOPIC,
        key=envelope.key.encode(),
        value=envelope.value.encode(),
        headers=headers_of(envelope),
        timestamp_ms=int(used.started_at),
    )
