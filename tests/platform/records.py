"""Events as a consumer that knows nothing of the platform finds them in Kafka."""

import asyncio
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer

WAIT_S = 60.0


@dataclass(frozen=True)
class Record:
    """A CloudEvent in binary mode."""

    topic: str
    key: str
    headers: dict[str, str]
    value: dict[str, Any]

    @property
    def type(self) -> str:
        return self.headers["ce_type"]

    def check(self) -> None:
        """What CloudEvents and the platform promise of every record."""
        assert self.headers["ce_specversion"] == "1.0"
        assert self.headers["ce_source"] == "/aiops/controller"
        assert self.headers["content-type"] == "application/json"
        assert self.headers["ce_subject"] == self.key
        assert datetime.fromisoformat(self.headers["ce_time"]).tzinfo is not None
        assert self.value["type"] == self.type


async def records_until(servers: str, topics: Collection[str], last: Callable[[Record], bool]) -> list[Record]:
    """Everything from the beginning of the topics to a certain record."""
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=servers, auto_offset_reset="earliest")
    records: list[Record] = []
    async with consumer, asyncio.timeout(WAIT_S):
        while not any(last(record) for record in records):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                records += [_record(each) for each in batch]
    return records


def _record(record: Any) -> Record:
    headers = {name: raw.decode() for name, raw in record.headers}
    return Record(record.topic, record.key.decode(), headers, json.loads(record.value))
