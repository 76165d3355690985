"""Reads that many callers want at once, done once for all of them."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class _Batch(Generic[Result]):
    """Callers that wait for one read, and the read that they must let finish first."""

    def __init__(self, before: "asyncio.Future[Result] | None") -> None:
        self.before = before
        self.result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()


class SharedReads(Generic[Result]):
    """One read at a time for each key.

    Who comes while a read is on its way shares the next one: every caller gets the result of a read that began after
    the call, so that nobody misses a change that was made before they asked.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, _Batch[Result]] = {}
        self._reading: dict[Hashable, _Batch[Result]] = {}

    async def get(self, key: Hashable, read: Callable[[], Awaitable[Result]]) -> Result:
        """What a read for this key answers, or the error that it ended with."""
        while True:
            batch = self._waiting.get(key)
            if batch is None:
                return await self._lead(key, read)
            await asyncio.wait((batch.result,))
            # The caller that led the batch may have given up before the read began or ended.
            if not batch.result.cancelled():
                return batch.result.result()

    async def _lead(self, key: Hashable, read: Callable[[], Awaitable[Result]]) -> Result:
        before = self._reading.get(key)
        batch = self._waiting[key] = _Batch[Result](before.result if before else None)
        try:
            if batch.before is not None:
                await asyncio.wait((batch.before,))
            del self._waiting[key]
            self._reading[key] = batch
            return await self._settle(batch, read)
        finally:
            batch.result.cancel()
            for known in (self._waiting, self._reading):
                if known.get(key) is batch:
                    del known[key]

    async def _settle(self, batch: _Batch[Result], read: Callable[[], Awaitable[Result]]) -> Result:
        try:
            result = await read()
        except Exception as error:
            batch.result.set_exception(error)
            # Looked at once here, so that an error that nobody else waits for is no stray one.
            batch.result.exception()
            raise
        batch.result.set_result(result)
        return result
