"""A controller of its own for a benchmark: real PostgreSQL and broker beside it, killed and started again on demand."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil

from stack.broker import Broker
from stack.ports import free_port
from stack.postgres import Postgres
from tests.fixtures.broker import start_broker
from tests.fixtures.postgres import start_postgres

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "correct horse battery"  # noqa: S105 - of a database that lasts for one benchmark
START_S = 90


@dataclass(slots=True)
class Controller:
    """Where it listens, and its process."""

    home: Path
    database: str
    kafka: str
    api: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    mesh: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    join: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Starts it; it may still be on its way when this returns."""
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            # As where it is installed: its second start finds everything compiled.
            "PYTHONPYCACHEPREFIX": str(self.home / "compiled"),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
            "AIOPS_HOME": str(self.home),
            "AIOPS_DATABASE_URL": self.database,
            "AIOPS_KAFKA": self.kafka,
            "AIOPS_ADMIN_PASSWORD": PASSWORD,
            "AIOPS_CONTROLLER_API": self.api,
            "AIOPS_CONTROLLER_MESH": self.mesh,
            "AIOPS_CONTROLLER_JOIN": self.join,
        }
        with (self.home / "controller.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "controller"], cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Returns when it answers."""
        with grpc.insecure_channel(self.api) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=START_S)
            except grpc.FutureTimeoutError:
                sys.exit(f"the controller did not answer for {START_S} s; the end of its log:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return (self.home / "controller.log").read_text(errors="replace")[-4_000:]

    def kill(self) -> None:
        """Ends it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ends it in good order."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(timeout=START_S)

    def memory_mb(self) -> float:
        """Its resident memory."""
        assert self.process is not None
        resident: int = psutil.Process(self.process.pid).memory_info().rss
        return resident / 1e6

    def cpu_s(self) -> float:
        """The seconds of processor time that it has used."""
        assert self.process is not None
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def running_controller() -> Iterator[Controller]:
    """Everything up; all of it gone when the block ends."""
    home = Path(tempfile.mkdtemp(prefix="aiops-fleet-"))
    server, broker = Postgres.at(home), Broker(free_port())
    server.initialise()
    postgres = start_postgres(server, home / "postgres.log")
    kafka = start_broker(broker, home / "broker.log")
    try:
        server.ensure_role()
        server.ensure_database()
        controller = Controller(home, server.url(), broker.bootstrap_servers)
        controller.start()
        try:
            controller.wait()
            yield controller
        finally:
            controller.stop()
    finally:
        postgres.send_signal(signal.SIGINT)
        kafka.terminate()
        postgres.wait(timeout=START_S)
        kafka.wait(timeout=START_S)
        shutil.rmtree(home)


async def highest_memory_mb(controller: Controller, until: asyncio.Event) -> float:
    """The most memory that the controller's process had until the event."""
    most = 0.0
    while not until.is_set():
        with suppress(psutil.Error):
            most = max(most, controller.memory_mb())
        await asyncio.sleep(0.1)
    return most
