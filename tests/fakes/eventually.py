"""Waits for what comes about elsewhere, as briefly as it takes and never for long."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from mesh.loops import Wake

LOOK_EVERY = timedelta(milliseconds=50)


async def eventually(check: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> None:
    """Returns when `check` holds; TimeoutError when it does not in time."""
    async with asyncio.timeout(within_s):
        while not await check():
            await Wake().wait(LOOK_EVERY)
