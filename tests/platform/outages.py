"""Services of a running platform that are frozen, or killed and kept away, for as long as a block lasts."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

from stack.postgres import Postgres
from stack.probes import listens
from stack.processes import Process, descendants
from tests.fakes.eventually import eventually
from tests.fixtures.platform import Platform

# A server listens soon after its start, and must be caught before.
CATCH_EVERY = timedelta(milliseconds=5)


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """The processes and all below them stand still."""
    found = [process for pid in pids for process in (Process.of(pid), *descendants(pid)) if process is not None]
    _signal(found, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(found, signal.SIGCONT)


@asynccontextmanager
async def away(platform: Platform, name: str) -> AsyncIterator[None]:
    """The service is killed; what the supervisor starts in its place stands still before it listens."""
    first = platform.state.service(name)
    assert first.pid is not None
    Process(first.pid, first.started or 0).signal(signal.SIGKILL, group=True)
    successor = await _held_successor(platform, name, first.pid)
    try:
        yield
    finally:
        _signal(successor, signal.SIGCONT)


async def _held_successor(platform: Platform, name: str, before: int) -> list[Process]:
    """Whoever comes in its place; one that listens before it is caught has to go too."""
    while True:
        pid = await _next_pid(platform, name, before)
        held = [process for process in (Process.of(pid), *descendants(pid)) if process is not None]
        _signal(held, signal.SIGSTOP)
        if held and not await _accepts(platform, name):
            return held
        _signal(held, signal.SIGKILL)
        before = pid


async def _next_pid(platform: Platform, name: str, before: int) -> int:
    async def started_anew() -> bool:
        return platform.state.service(name).pid not in {None, before}

    await eventually(started_anew, 60, every=CATCH_EVERY)
    return pid_of(platform, name)


async def _accepts(platform: Platform, name: str) -> bool:
    if name != "postgres":
        return await listens(int(platform.state.service(name).address.rpartition(":")[2]))
    try:
        _, writer = await asyncio.open_unix_connection(Postgres.at(platform.home.root).socket_path)
    except OSError:
        return False
    writer.close()
    return True


def pid_of(platform: Platform, name: str) -> int:
    """The process of a service."""
    pid = platform.state.service(name).pid
    assert pid is not None
    return pid


def unwell(platform: Platform) -> list[str]:
    """What the supervisor does not find in order."""
    return platform.state.unhealthy().splitlines()


def _signal(processes: list[Process], number: int) -> None:
    for process in processes:
        process.signal(number)
