"""Checks the migrations on a fresh database: `python tools/migrations.py check` (up, no drift, down, up again)."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stack.postgres import Postgres

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 30
STEPS = (["upgrade", "head"], ["check"], ["downgrade", "base"], ["upgrade", "head"], ["check"])


def main() -> int:
    """Runs the steps; the first that fails decides the exit status."""
    if sys.argv[1:] != ["check"]:
        print("usage: python tools/migrations.py check", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="aiops-migrations-") as home:
        server = Postgres.at(Path(home), durable=False)
        server.initialise()
        with (Path(home) / "log").open("wb") as log:
            process = subprocess.Popen(
                server.command(),
                env=server.environment(),
                stderr=log,
                cwd="/",
                start_new_session=True,
                **server.child_user,
            )
        try:
            return _check(server)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=START_TIMEOUT_S)


def _check(server: Postgres) -> int:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not server.ready():
        if time.monotonic() > deadline:
            raise TimeoutError("PostgreSQL did not start")
        time.sleep(0.02)
    server.ensure_role()
    server.ensure_database("aiops")
    environment = {**os.environ, "AIOPS_DATABASE_URL": server.url("aiops")}
    for step in STEPS:
        done = subprocess.run([sys.executable, "-m", "alembic", *step], cwd=ROOT, env=environment, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
