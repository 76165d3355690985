"""A consumer in a process of its own, slow enough to be stopped in the middle of an event.

`python -m tests.fakes.counting_consumer SERVERS DATABASE_URL GROUP TOPIC`
"""

import asyncio
import sys

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.events.consumer import Consumer
from mesh.events.kafka import Kafka
from mesh.events.outbox import Envelope
from mesh.settings import Observability
from mesh.sql.database import Database
from mesh.telemetry import start_telemetry
from tests.mesh.events.bench import SETTINGS, note


async def slowly(connection: AsyncConnection, event: Envelope) -> None:
    await note(connection, event)
    await connection.execute(text("SELECT pg_sleep(0.05)"))


async def main(servers: str, url: str, group: str, topic: str) -> None:
    consumer = Consumer(
        group,
        [topic],
        {"test.counted": slowly},
        database=Database(url),
        kafka=Kafka(servers),
        telemetry=start_telemetry("test", Observability(metrics_port=None)),
        settings=SETTINGS,
    )
    await consumer.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
