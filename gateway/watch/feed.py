"""Streams of whole states from other services, followed for good; while one is away, what it said last stays."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import timedelta
from typing import Generic, TypeVar

import grpc

from mesh.loops import Backoff

log = logging.getLogger(__name__)
State = TypeVar("State")
RETRY = Backoff(first=timedelta(milliseconds=50), limit=timedelta(seconds=1))


class Feed(Generic[State]):
    """Opens the stream, hands every state on, and opens it again when it ends. `step` is one such round."""

    def __init__(
        self, name: str, open_stream: Callable[[], AsyncGenerator[State]], apply: Callable[[State], None]
    ) -> None:
        self._name = name
        self._open_stream = open_stream
        self._apply = apply
        self._failures = 0

    async def step(self) -> timedelta:
        """Follows one stream to its end; answers how long to wait before the next."""
        try:
            async with aclosing(self._open_stream()) as states:
                async for state in states:
                    if self._failures:
                        log.info("the %s is back", self._name)
                    self._failures = 0
                    self._apply(state)
        except grpc.aio.AioRpcError as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("the %s is away, what it said last stays in force: %s", self._name, error.details())
        return RETRY.pause(max(self._failures, 1))
