"""What a consumer needs may go away and come back; every event still has its effect once."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from mesh.events.failures import retry_topic
from mesh.loops import Wake
from mesh.sql.database import Database
from mesh.telemetry import Telemetry
from stack.postgres import Postgres
from tests.fixtures.postgres import start_postgres
from tests.mesh.events.bench import Bench, make_tables
from tests.mesh.events.records import envelope, new_topic, reading

ROOT = Path(__file__).parents[3]


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that the test may kill, and that keeps what it committed; not started."""
    home = Path(tempfile.mkdtemp(prefix="aiops-postgres-"))
    server = Postgres.at(home)
    server.initialise()
    yield server
    shutil.rmtree(home)


async def test_while_the_database_is_away_nothing_is_tried_and_nothing_is_lost(
    own_postgres: Postgres, kafka: str, telemetry: Telemetry, tmp_path: Path
) -> None:
    process = start_postgres(own_postgres, tmp_path / "log")
    own_postgres.ensure_role()
    own_postgres.ensure_database("events")
    database = Database(own_postgres.url("events"))
    bench, topic = Bench(database, kafka, telemetry), new_topic("database")
    try:
        await make_tables(database)
        async with bench.consuming(bench.consumer([topic])):
            await bench.send(envelope(topic, "a", 0))
            await bench.until(1)
            process.kill()
            process.wait()
            await bench.send(*(envelope(topic, "a", sequence) for sequence in range(1, 6)))
            await Wake().wait(timedelta(seconds=2))
            process = start_postgres(own_postgres, tmp_path / "log")
            assert await bench.until(6) == [("a", sequence) for sequence in range(6)]
            async with reading(kafka, [retry_topic(topic, bench.group)]) as consumer:
                assert await consumer.getmany(timeout_ms=500) == {}
    finally:
        await bench.publisher.close()
        await database.dispose()
        process.send_signal(signal.SIGINT)
        process.wait()


@asynccontextmanager
async def consuming_process(bench: Bench, url: str, topic: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"}
    command = ["-m", "tests.fakes.counting_consumer", bench.kafka.bootstrap_servers, url, bench.group, topic]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, env=environment)
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def test_a_frozen_consumer_is_replaced_and_its_return_has_no_second_effect(
    empty_database: str, kafka: str, telemetry: Telemetry
) -> None:
    database = Database(empty_database)
    bench, topic, keys, events = Bench(database, kafka, telemetry), new_topic("frozen"), ["a", "b", "c", "d"], 15
    await make_tables(database)
    await bench.send(*(envelope(topic, key, sequence) for sequence in range(events) for key in keys))
    async with consuming_process(bench, empty_database, topic) as first:
        await bench.until(10)
        first.send_signal(signal.SIGSTOP)
        async with consuming_process(bench, empty_database, topic):
            await bench.until(30)
            first.send_signal(signal.SIGCONT)
            found = await bench.until(len(keys) * events)
            await Wake().wait(timedelta(seconds=1))
            assert sorted(await bench.effects()) == sorted(found)
    await bench.publisher.close()
    await database.dispose()
    assert sorted(found) == sorted((key, sequence) for key in keys for sequence in range(events))
