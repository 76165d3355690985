"""How much every process takes while something happens to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import psutil

from mesh.loops import Wake
from stack.postgres import PostgresError
from tests.robustness.cluster import Cluster
from tests.robustness.final import query

EVERY = timedelta(seconds=1)


@dataclass(frozen=True)
class Sample:
    """One look at one member. Memory in megabytes."""

    member: str
    rss_mb: float
    descriptors: int
    threads: int


@dataclass
class Samples:
    """All looks, and how many connections the database had at each (0 while it was away)."""

    members: list[Sample] = field(default_factory=list)
    connections: list[int] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@asynccontextmanager
async def sampling(cluster: Cluster) -> AsyncIterator[Samples]:
    """Looks once a second until the block ends."""
    samples, over = Samples(), asyncio.Event()

    async def look() -> None:
        while not over.is_set():
            samples.members += await asyncio.to_thread(_members, cluster)
            samples.connections.append(await asyncio.to_thread(_connections, cluster))
            await Wake().wait(EVERY)

    looking = asyncio.ensure_future(look())
    try:
        yield samples
    finally:
        over.set()
        await looking


def _members(cluster: Cluster) -> list[Sample]:
    found = []
    for member in cluster.members.values():
        if member.alive:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(member.pid)
                with process.oneshot():
                    rss = process.memory_info().rss / 1024 / 1024
                    found.append(Sample(member.name, rss, process.num_fds(), process.num_threads()))
    return found


def _connections(cluster: Cluster) -> int:
    if not cluster.members["postgres"].alive or cluster.members["postgres"].is_frozen:
        return 0
    try:
        return int(query(cluster.postgres, "SELECT to_json(count(*)) FROM pg_stat_activity WHERE datname = 'aiops'"))
    except PostgresError:
        return 0
