"""The life of a service process: logging, the event loop, and an orderly end on SIGTERM or SIGINT."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

import uvloop

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


# Counting references frees nearly all that a service makes. With Python's own thresholds (700, 10, 10) the collector
# walked through everything every few seconds, for 0.1 to 0.5 s with 1,000 sessions open, and found next to nothing.
_COLLECT_AFTER = (20_000, 20, 20)


def run_service(name: str, main: Callable[[asyncio.Event], Awaitable[None]], *, log_level: str = "INFO") -> int:
    """Runs `main(stopping)` until it returns; SIGTERM and SIGINT set `stopping`. Answers the exit status.

    Logs go to standard error. `main` is expected to return soon after `stopping` is set.
    """
    logging.basicConfig(level=log_level.upper(), format=_FORMAT, stream=sys.stderr)
    # A line for each request would hide what matters.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger(name).info("%s starts", name)
    gc.set_threshold(*_COLLECT_AFTER)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_until_stopped(main))
    logging.getLogger(name).info("%s ended", name)
    return 0


async def _until_stopped(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await main(stopping)
