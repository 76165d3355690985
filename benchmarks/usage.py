"""What it costs to tell of a request's usage: from a line of Envoy's journal to the broker, and on into the ledger.

Microseconds of processor time per row, which is what the rows take from Envoy on a machine that they share. The broker,
PostgreSQL, the journal's disk and all code on the way are real; the lines are as Envoy writes them for a chat that a
route led. Run: python -m benchmarks.usage
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
from sqlalchemy import text

from controller.encodings import EVENTS
from controller.hints import Hints
from controller.usage.convert import used_from_event
from controller.usage.service import UsageLedger
from controller.work import UnitOfWork
from gateway.usage.forward import TOPIC, Forwarder
from gateway.usage.journal import Journal, path_in
from mesh.clock import SystemClock
from mesh.events.batches import BatchConsumer
from mesh.events.kafka import Kafka
from mesh.events.publisher import KafkaPublisher
from mesh.identity import SYSTEM
from mesh.loops import Wake
from mesh.settings import Observability
from mesh.sql.database import Database
from mesh.telemetry import Telemetry, start_telemetry
from stack.broker import Broker
from stack.ports import free_port
from stack.postgres import Postgres
from tests.fakes.eventually import eventually
from tests.fixtures.broker import start_broker
from tests.fixtures.postgres import start_postgres

ROOT = Path(__file__).parent.parent
MOST_BYTES = 1 << 30
PATIENCE_S = 300.0


async def main() -> None:
    """Prints what each part took per row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    rows = parser.parse_args().rows
    telemetry = start_telemetry("benchmark", Observability(metrics_port=None))
    with tempfile.TemporaryDirectory(prefix="aiops-bench-") as scratch, _postgres() as (database_url, postgres):
        home, broker = Path(scratch), Broker(free_port())
        process = start_broker(broker, home / "broker.log")
        try:
            path_in(home).write_bytes(b"".join(map(_line, range(rows))))
            with _measured("forwarder", "broker", rows, process.pid):
                await _forward(home, broker, telemetry)
            with _measured("ledger", "PostgreSQL", rows, postgres):
                await _enter(database_url, broker, telemetry, rows)
        finally:
            process.terminate()
            process.wait()
            telemetry.shutdown()


def _line(number: int) -> bytes:
    """What Envoy writes of a chat."""
    ulid = "01j9zk3v5q8w7x2y4t6r"
    notes = {"org": f"org-{ulid}", "user": f"user-{ulid}", "token": f"key-{ulid}", "token_type": "api_key"}
    entry = {
        "attempts": 1,
        "cluster": f"target/route-{ulid}/primary",
        "content_type": "application/json",
        "degraded": None,
        "deployment": f"dep-{ulid}",
        "duration_us": 123_456 + number % 1000,
        "first_byte_us": 120_001 + number % 1000,
        "flags": "-",
        "instance": f"ins-{ulid}",
        "notes": {**notes, "model": "tiny", "input_tokens": 321, "output_tokens": 128, "cached_tokens": 64},
        "path": "/v1/chat/completions",
        "request_bytes": 640,
        "request_id": f"{number:032x}",
        "response_bytes": 1290,
        "route": {"model": "tiny", "input_price": "0.0000002", "output_price": "0.0000006"},
        "started": f"{time.time():.6f}",
        "status": 200,
        "target": "primary",
    }
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


async def _forward(home: Path, broker: Broker, telemetry: Telemetry) -> None:
    journal = Journal(home, most_bytes=MOST_BYTES)
    forwarder = Forwarder(lambda: journal, KafkaPublisher(Kafka(broker.bootstrap_servers)), telemetry.meter)
    while journal.waiting_bytes():
        await forwarder.step()
    await forwarder.close()


async def _enter(url: str, broker: Broker, telemetry: Telemetry, rows: int) -> None:
    async with _database(url) as database:
        unit_of_work = UnitOfWork(database, EVENTS, SystemClock(), Wake())
        ledger = UsageLedger(unit_of_work, SystemClock(), timedelta(days=90), Hints())
        kafka = Kafka(broker.bootstrap_servers)
        consumer = BatchConsumer("ledger", TOPIC, used_from_event, ledger.enter, kafka=kafka, telemetry=telemetry)

        async def entered() -> bool:
            async with database.reading(SYSTEM) as connection:
                count = await connection.scalar(text("SELECT count(*) FROM usage_records"))
            return bool(count == rows)

        consuming = asyncio.ensure_future(consumer.run())
        try:
            await eventually(entered, PATIENCE_S)
        finally:
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)


@asynccontextmanager
async def _database(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        await database.dispose()


@contextmanager
def _measured(ours: str, other: str, rows: int, pid: int) -> Iterator[None]:
    """Prints the processor time of this process and of another one with its children."""
    before, others = time.process_time(), _cpu_s(pid)
    yield
    spent, others = time.process_time() - before, _cpu_s(pid) - others
    print(
        f"{ours} {spent / rows * 1e6:.0f} us of processor time per row, {other} {others / rows * 1e6:.0f}", flush=True
    )


def _cpu_s(pid: int) -> float:
    """The time of a process and all its children, also of those that are gone."""
    root = psutil.Process(pid)
    every = [root.cpu_times(), *(child.cpu_times() for child in root.children(recursive=True))]
    return sum(float(sum(times[:2])) for times in every) + float(sum(root.cpu_times()[2:4]))


@contextmanager
def _postgres() -> Iterator[tuple[str, int]]:
    """A server with the newest schema: the URL of its database, and its process."""
    home = Path(tempfile.mkdtemp(prefix="aiops-postgres-"))
    server = Postgres.at(home, durable=False)
    server.initialise()
    process = start_postgres(server, home / "log")
    try:
        server.ensure_role()
        server.ensure_database("aiops")
        paths = {"AIOPS_DATABASE_URL": server.url("aiops"), "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"}
        command = [sys.executable, "-m", "alembic", "upgrade", "head"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **paths}, check=True, capture_output=True)
        yield server.url("aiops"), process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        shutil.rmtree(home)


if __name__ == "__main__":
    asyncio.run(main())
