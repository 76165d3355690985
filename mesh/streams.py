"""Streams of messages joined into one."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import TypeVar

from mesh.loops import attempt

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _End:
    error: Exception | None


async def merge(*sources: AsyncIterable[Item], waiting: int = 64) -> AsyncIterator[Item]:
    """What every source says, as it comes, until all have ended; an error of one ends all.

    So many items wait for whoever is slow; then the sources wait.
    """
    queue: asyncio.Queue[Item | _End] = asyncio.Queue(waiting)

    async def pour(source: AsyncIterable[Item]) -> None:
        async for item in source:
            await queue.put(item)

    async def run(source: AsyncIterable[Item]) -> None:
        await queue.put(_End(await attempt(pour(source))))

    tasks = [asyncio.ensure_future(run(source)) for source in sources]
    open_sources = len(tasks)
    try:
        while open_sources:
            item = await queue.get()
            if not isinstance(item, _End):
                yield item
                continue
            if item.error is not None:
                raise item.error
            open_sources -= 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
