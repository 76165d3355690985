"""What happens on the platform, as its events tell it: the newest of each partition, and who hears of them."""

import json
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from gateway.realtime.frames import Json
from gateway.realtime.outgoing import Frame, Kind
from mesh.events.cloudevents import Envelope, MalformedEventError, envelope_of
from mesh.events.kafka import BrokerError, ConsumerRecord, Kafka, TopicPartition
from mesh.identity import Caller, new_id
from mesh.loops import Backoff

log = logging.getLogger(__name__)
TOPICS = ("aiops.system.v1", "aiops.deployments.v1", "aiops.models.v1", "aiops.nodes.v1")
# Of each partition, so many of the newest records can be resumed.
KEPT = 2_000
POLL_MS = 500
RETRY = Backoff(first=timedelta(milliseconds=200), limit=timedelta(seconds=2))
EVERYBODY = "system.broadcast"
# Which permission an event is for. What is not listed stays inside the platform.
WANTED: Mapping[str, str] = {
    **dict.fromkeys(("system.notification", EVERYBODY), "chat"),
    **dict.fromkeys(("system.connectionLost", "system.rateLimit", "system.error"), "chat"),
    **dict.fromkeys(("system.deploymentCreated", "system.deploymentStatus", "system.modelDownloaded"), "view_metrics"),
    **dict.fromkeys(("system.node.online", "system.node.offline"), "view_metrics"),
    **dict.fromkeys(("system.node.register", "system.node.disconnect", "system.node.maintenance"), "register_nodes"),
    **dict.fromkeys(("system.node.deploymentProgress", "system.node.containerEvent"), "register_nodes"),
    "system.node.removed": "register_nodes",
}


@dataclass(frozen=True, slots=True)
class Told:
    """An event and its place. The place is recognised by the event's id."""

    place: str
    offset: int
    event_id: str
    type: str
    organization: str
    frame: Frame

    def is_for(self, caller: Caller) -> bool:
        """Whether somebody may hear of it: their organisation's, and what they have the permission for."""
        if WANTED[self.type] not in caller.permissions:
            return False
        return caller.sees_all or self.type == EVERYBODY or self.organization == caller.org_id != ""


@dataclass(slots=True)
class Ring:
    """The newest events of one partition, and the offset from which on none is left out."""

    base: int
    head: int
    told: deque[Told] = field(default_factory=deque)

    def add(self, told: Told) -> None:
        self.told.append(told)
        while len(self.told) > KEPT:
            self.base = self.told.popleft().offset + 1

    def behind(self, epoch: str, offset: int) -> list[Told] | None:
        """What came behind a place; None when that is not known. Without an epoch the place is before a first event."""
        if not epoch:
            return list(self.told) if offset + 1 >= self.base else None
        kept = list(self.told)
        found = [number for number, each in enumerate(kept) if (each.offset, each.event_id) == (offset, epoch)]
        return kept[found[0] + 1 :] if found else None

    def place(self) -> tuple[str, int]:
        """Epoch and offset of the newest."""
        return (self.told[-1].event_id, self.told[-1].offset) if self.told else ("", self.base - 1)


class Hearer(Protocol):
    """Somebody who hears of events."""

    def hear(self, told: Told) -> None: ...


class Tail:
    """Reads every partition by itself, so that every process hears of every event."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._rings: dict[str, Ring] = {}
        self._hearers: set[Hearer] = set()
        self._failures = 0

    def join(self, hearer: Hearer) -> None:
        """From now on it hears."""
        self._hearers.add(hearer)

    def leave(self, hearer: Hearer) -> None:
        """It hears no more."""
        self._hearers.discard(hearer)

    def positions(self) -> list[Json]:
        """The newest place of every partition."""
        places = {name: ring.place() for name, ring in sorted(self._rings.items())}
        return [{"topic": name, "epoch": epoch, "offset": offset} for name, (epoch, offset) in places.items()]

    def behind(self, place: str, epoch: str, offset: int) -> list[Told] | None:
        """What came behind a place; None when that is not known."""
        ring = self._rings.get(place)
        return ring.behind(epoch, offset) if ring is not None else None

    async def step(self) -> timedelta:
        """Reads until the broker fails; answers how long to wait before the next try."""
        try:
            await self._kafka.ensure_topics(TOPICS)
            async with self._kafka.consumer(new_id("realtime")) as consumer:
                await self._start(consumer)
                while True:
                    self._failures = 0
                    for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                        self._take(records)
        except BrokerError as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("events are not heard of: %s", error)
        return RETRY.pause(self._failures)

    async def _start(self, consumer: Any) -> None:
        partitions = [
            TopicPartition(topic, number)
            for topic in TOPICS
            for number in sorted(await consumer._client._wait_on_metadata(topic))
        ]
        consumer.assign(partitions)
        first, last = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        for partition in partitions:
            ring = self._rings.get(_name(partition))
            if ring is None or not first[partition] <= ring.head <= last[partition]:
                # New, or another log under the same name.
                start = max(first[partition], last[partition] - KEPT)
                ring = self._rings[_name(partition)] = Ring(start, start)
            consumer.seek(partition, ring.head)

    def _take(self, records: Iterable[ConsumerRecord]) -> None:
        for record in records:
            place = _name(record)
            ring = self._rings[place]
            ring.head = record.offset + 1
            told = _told(place, record)
            if told is not None:
                ring.add(told)
                for hearer in tuple(self._hearers):
                    hearer.hear(told)


def _name(partition: Any) -> str:
    return f"{partition.topic}/{partition.partition}"


def _told(place: str, record: ConsumerRecord) -> Told | None:
    try:
        event = envelope_of(record.topic, record.key, record.value, record.headers)
    except MalformedEventError:
        return None
    if event.type not in WANTED:
        return None
    content = {"type": event.type, **_content(event)}
    text = {**content, "topic": place, "epoch": event.event_id, "offset": record.offset}
    frame = Frame(Kind.EVENT, json.dumps(text, ensure_ascii=False, separators=(",", ":")).encode())
    return Told(place, record.offset, event.event_id, event.type, event.organization, frame)


def _content(event: Envelope) -> Json:
    """The event's members; what is empty was left out by whoever told it."""
    content = json.loads(event.value)
    fields = content if isinstance(content, dict) else {}
    return {name: value for name, value in fields.items() if value not in ("", None) or name in _ALWAYS}


_ALWAYS = ("message", "status")
