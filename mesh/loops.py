"""Background loops: a step that is repeated, backs off when it fails, and wakes up on a hint."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

log = logging.getLogger(__name__)


class Wake:
    """A hint that there is something to do. Hints that come together count as one; a lost hint costs only time."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Hints."""
        self._event.set()

    async def wait(self, at_most: timedelta) -> bool:
        """Waits for a hint, at most so long; takes the hint and says whether one came."""
        try:
            async with asyncio.timeout(at_most.total_seconds()):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full-jitter exponential backoff: a random span up to `first` × 2ⁿ, at most `limit`.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    first: timedelta = timedelta(milliseconds=200)
    limit: timedelta = timedelta(seconds=30)

    def pause(self, failures: int) -> timedelta:
        """How long to wait after so many failures in a row (1 or more)."""
        ceiling = min(self.limit, self.first * 2.0 ** min(failures - 1, 30))
        return ceiling * random.random()  # noqa: S311 - jitter is no secret


async def run_loop(
    name: str,
    step: Callable[[], Awaitable[timedelta | None]],
    *,
    interval: timedelta,
    wake: Wake | None = None,
    backoff: Backoff | None = None,
) -> None:
    """Repeats `step` until cancelled.

    The step answers how long to pause, or None for `interval`; a hint on `wake` ends a pause early. A step that raises
    is logged and tried again after a backoff. Cancelling ends the loop where the step next awaits.
    """
    hint = wake or Wake()
    delays = backoff or Backoff()
    failures = 0
    while True:
        try:
            pause = await step()
            failures = 0
        except Exception:
            failures += 1
            log.exception("%s failed %d times in a row", name, failures)
            await asyncio.sleep(delays.pause(failures).total_seconds())
            continue
        await hint.wait(interval if pause is None else pause)


async def attempt(work: Awaitable[object]) -> Exception | None:
    """Runs what must not end its loop, whatever it raises; answers the error."""
    try:
        await work
    except Exception as error:
        log.debug("an attempt failed", exc_info=True)
        return error
    return None


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Does what must not stay half done; whoever is cancelled meanwhile is cancelled when it is done."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        await asyncio.gather(task, return_exceptions=True)
        raise asyncio.CancelledError
    task.result()
