"""A consumer of the platform's events that keeps what it heard, in the order in which it heard it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from controller.encodings import EVENTS
from mesh.loops import Backoff, run_loop

# Where the outbox is published, whatever of it there is by now; other topics have events of their own.
TOPICS = "|".join(sorted({f"{re.escape(each.topic)}$" for each in EVENTS.values()}))
NEW_TOPICS_MS = 1_000


@dataclass(frozen=True)
class Heard:
    """One record as it came."""

    event_id: str
    topic: str
    key: str
    type: str
    value: dict[str, Any]


@dataclass
class Tap:
    """The records so far."""

    records: list[Heard] = field(default_factory=list)

    def ids(self) -> set[str]:
        return {each.event_id for each in self.records}

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(each) for each in self.records]


@asynccontextmanager
async def listening(servers: str) -> AsyncIterator[Tap]:
    """Hears everything from the beginning of the topics, whatever happens to the broker, until the block ends."""
    tap = Tap()

    async def step() -> timedelta | None:
        try:
            await _listen(servers, tap)
        except KafkaError as error:
            raise ConnectionError(str(error)) from error
        return None

    task = asyncio.ensure_future(
        run_loop("tap", step, interval=timedelta(0), backoff=Backoff(limit=timedelta(seconds=1)))
    )
    try:
        yield tap
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _listen(servers: str, tap: Tap) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers, auto_offset_reset="earliest", metadata_max_age_ms=NEW_TOPICS_MS
    )
    consumer.subscribe(pattern=TOPICS)
    async with consumer:
        async for record in consumer:
            headers = {name: raw.decode() for name, raw in record.headers}
            key = (record.key or b"").decode()
            heard = Heard(headers["ce_id"], record.topic, key, headers["ce_type"], json.loads(record.value))
            tap.records.append(heard)
