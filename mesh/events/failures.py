"""What a record that could not be handled carries with it: how often, why, since when, and where it came from."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from mesh.events.kafka import BrokerError, ConsumerRecord, Record
from mesh.events.publisher import Publisher

log = logging.getLogger(__name__)
PREFIX = "aiops_"
LONGEST_ERROR = 500
RETRY, DEAD_LETTERS = ".retry", ".dlq"


def retry_topic(topic: str, group: str) -> str:
    """Where a group's failed events of a topic wait for their next attempt."""
    return f"{topic}.{group}{RETRY}"


def dead_letter_topic(topic: str, group: str) -> str:
    """Where a group's events of a topic go when no attempt helped."""
    return f"{topic}.{group}{DEAD_LETTERS}"


@dataclass(frozen=True, slots=True)
class History:
    """What happened to a record so far. `retry_at` is when its next attempt is due."""

    topic: str
    partition: int
    offset: int
    attempts: int = 0
    error: str = ""
    first_failure: str = ""
    retry_at: datetime | None = None

    @staticmethod
    def of(record: ConsumerRecord) -> "History":
        """The history in a record's headers; a record without one is at its origin. Raises ValueError."""
        headers = {name: raw.decode() for name, raw in record.headers if name.startswith(PREFIX)}
        return History(
            topic=headers.get("aiops_origin_topic", record.topic),
            partition=int(headers.get("aiops_origin_partition", record.partition)),
            offset=int(headers.get("aiops_origin_offset", record.offset)),
            attempts=int(headers.get("aiops_attempts", 0)),
            error=headers.get("aiops_error", ""),
            first_failure=headers.get("aiops_first_failure", ""),
            retry_at=_moment(headers),
        )

    def failed(self, error: Exception, now: datetime) -> "History":
        """One attempt more."""
        return replace(
            self,
            attempts=self.attempts + 1,
            error=_text(error),
            first_failure=self.first_failure or now.isoformat(),
            retry_at=None,
        )

    def due_in(self, pause: timedelta, now: datetime) -> "History":
        """To be tried again after a pause."""
        return replace(self, retry_at=now + pause)

    def headers(self) -> list[tuple[str, bytes]]:
        """As it travels."""
        values = {
            "aiops_origin_topic": self.topic,
            "aiops_origin_partition": str(self.partition),
            "aiops_origin_offset": str(self.offset),
            "aiops_attempts": str(self.attempts),
            "aiops_error": self.error,
            "aiops_first_failure": self.first_failure,
            "aiops_retry_at": "" if self.retry_at is None else str(self.retry_at.timestamp()),
        }
        return [(name, value.encode()) for name, value in values.items() if value]


async def bury(publisher: Publisher, record: ConsumerRecord, group: str, history: History) -> None:
    """Gives a record up: it goes to its group's dead letters with why. BrokerError when it does not get there."""
    where = f"{record.topic}/{record.partition}@{record.offset}"
    log.error("consumer %s gives %s up: %s", group, where, history.error)
    await hand_over(publisher, moved(record, dead_letter_topic(history.topic, group), history))


async def hand_over(publisher: Publisher, record: Record) -> None:
    """Publishes one record. BrokerError."""
    delivery = await publisher.publish([record])
    if delivery.error:
        raise BrokerError(delivery.error)


def moved(record: ConsumerRecord, topic: str, history: History | None) -> Record:
    """The record, byte for byte, on another topic with this history instead of its own."""
    kept = [(name, raw) for name, raw in record.headers if not name.startswith(PREFIX)]
    return Record(
        topic=topic,
        key=record.key or b"",
        value=record.value or b"",
        headers=[*kept, *(history.headers() if history is not None else ())],
        timestamp_ms=record.timestamp if record.timestamp >= 0 else None,
    )


def _moment(headers: Mapping[str, str]) -> datetime | None:
    text = headers.get("aiops_retry_at", "")
    return datetime.fromtimestamp(float(text), UTC) if text else None


def _text(error: Exception) -> str:
    """The error in one line, without its stack."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_ERROR]
