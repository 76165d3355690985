"""A fake engine in a process of its own, to be killed: `python -m tests.fakes.engine_process NAME PORT`."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.engine_http import Engine

ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class EngineProcess:
    """The process, which may be killed and started again at the same port."""

    name: str
    port: int
    process: asyncio.subprocess.Process | None = field(default=None)

    @property
    def engine(self) -> Engine:
        """What routes to it are made from."""
        return Engine(self.name, self.port)

    async def start(self) -> None:
        """Returns when it listens."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.fakes.engine_process",
            self.name,
            str(self.port),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"},
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert await self.process.stdout.readline() == b"listens\n"

    async def kill(self) -> None:
        """Ends it as a crash would."""
        if self.process is not None:
            self.process.kill()
            await self.process.wait()
            self.process = None


@asynccontextmanager
async def engine_process(name: str, port: int) -> AsyncIterator[EngineProcess]:
    """An engine that serves until it is killed or the block ends."""
    running = EngineProcess(name, port)
    await running.start()
    try:
        yield running
    finally:
        await running.kill()


async def _serve(name: str, port: int) -> None:
    engine = Engine(name)
    engine.release.set()
    server = await asyncio.start_server(engine.serve, "127.0.0.1", port, limit=64 * 1024 * 1024)
    sys.stdout.write("listens\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
