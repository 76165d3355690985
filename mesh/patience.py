"""Bounded waits that say what was waited for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def within(seconds: float, what: str) -> AsyncIterator[None]:
    """Cancels the block after so long. Raises TimeoutError that says `what` did not happen within that time."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise TimeoutError(f"{what} within {seconds:g} s") from error
