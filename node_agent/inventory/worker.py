"""A thread for calls that may never come back, so that only the thread hangs."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_Calls = queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]]]


class StuckError(Exception):
    """The call did not come back in time, or an earlier one still has not."""


class Worker:
    """Runs calls one after another in a daemon thread, which never delays the end of the process.

    Calls answer instead of raising. One that raises all the same ends its thread, with the traceback on standard error,
    and the next call gets a new thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: _Calls = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending: asyncio.Future[Any] | None = None

    async def run(self, call: Callable[[], T], timeout_s: float) -> T:
        """What the call answers. Raises StuckError, at once while an earlier call is stuck."""
        if self._thread is None or not self._thread.is_alive():
            self._start()
        if self._pending and not self._pending.done():
            raise StuckError(f"{self._name} still does not answer an earlier call")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._pending = future
        self._calls.put((future, call))
        done, _ = await asyncio.wait({future}, timeout=timeout_s)
        if not done:
            raise StuckError(f"{self._name} did not answer within {timeout_s:.0f} s")
        return future.result()

    def _start(self) -> None:
        self._pending = None
        self._calls = queue.SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._calls,), name=self._name, daemon=True)
        self._thread.start()


def _work(calls: _Calls) -> None:
    while True:
        future, call = calls.get()
        _settle(future, call())


def _settle(future: asyncio.Future[Any], value: object) -> None:
    loop = future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: None if future.done() else future.set_result(value))
