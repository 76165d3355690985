"""A thread for calls that may never come back, so that only the thread hangs."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class StuckError(Exception):
    """The call did not come back in time, or an earlier one still has not."""


class Worker:
    """Runs calls one after another in a daemon thread, which never delays the end of the process."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._pending: asyncio.Future[Any] | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], T], timeout_s: float) -> T:
        """What the call returns or raises. Raises StuckError, at once while an earlier call is stuck."""
        if self._pending and not self._pending.done():
            raise StuckError(f"{self._thread.name} still waits for an earlier call")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)  # also when nobody waits any more
        self._pending = future
        self._calls.put((future, call))
        done, _ = await asyncio.wait({future}, timeout=timeout_s)
        if not done:
            raise StuckError(f"{self._thread.name} did not answer within {timeout_s:.0f} s")
        return future.result()

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            try:
                outcome = (future.set_result, call())
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever waits for the call
                outcome = (future.set_exception, error)
            _settle(future, *outcome)


def _settle(future: asyncio.Future[Any], settle: Callable[[Any], None], value: object) -> None:
    loop = future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: None if future.done() else settle(value))


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
