"""Watches over one process: until it is ready, then whether it stays well, and always whether it has ended."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from node_agent.engines.engine import Probe
from node_agent.runtime.model import Ended, Runtime
from node_agent.workloads.model import Health, NeverReadyError, Patience, Process
from node_agent.workloads.probe import missing_of, until_answered

log = logging.getLogger(__name__)

_HEALTH_TIMEOUT_S = 5.0


class ProcessWatch:
    """One process and how to ask it. Methods answer how the process ended, None when it did not."""

    def __init__(self, process: Process, runtime: Runtime, patience: Patience) -> None:
        self._process, self._runtime, self._patience = process, runtime, patience
        self._health = Probe("GET", process.readiness.health_url, timeout_s=_HEALTH_TIMEOUT_S)
        self._missing = "it was never asked"

    async def until_ready(self, up: Callable[[], None]) -> Ended | None:
        """Waits for its first real answer; `up` is called when it listens. Raises NeverReadyError."""
        limit = min(self._process.readiness.timeout_s, self._patience.start_limit.total_seconds())
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                return await self._unless_ended(self._ready(up))
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise NeverReadyError(f"the engine did not become ready within {limit:.0f} s: {self._missing}") from error

    async def until_ended(self, healthy: Callable[[Health], None], stable: Callable[[], None]) -> Ended:
        """Tells its health at first and when it changes, and that it has been well for long enough."""
        ended = await self._unless_ended(self._check(healthy, stable))
        assert ended is not None, "checking never ends by itself"
        return ended

    async def for_at_most(self, span: timedelta) -> Ended | None:
        """Waits."""
        return await self._unless_ended(asyncio.sleep(span.total_seconds()))

    async def _ready(self, up: Callable[[], None]) -> None:
        readiness, pause = self._process.readiness, self._patience.ready_interval
        await until_answered(self._health, pause, self._misses)
        up()
        body = readiness.answer_body.encode()
        method = "POST" if body else "GET"
        await until_answered(Probe(method, readiness.answer_url, body, readiness.answer_timeout_s), pause, self._misses)

    def _misses(self, what: str) -> None:
        self._missing = what

    async def _check(self, healthy: Callable[[Health], None], stable: Callable[[], None]) -> None:
        patience, told, misses, well = self._patience, Health.UNKNOWN, 0, timedelta()
        while True:
            missing = await missing_of(self._health)
            well_now = not missing
            misses = 0 if well_now else misses + 1
            health = Health.HEALTHY if well_now else Health.UNHEALTHY
            if health is not told and (well_now or misses >= patience.unhealthy_after):
                told = health
                log.info("%s is %s: %s", self._health.url, health, missing or "it answers")
                healthy(health)
            well = well + patience.health_interval if well_now else timedelta()
            if well > patience.stable_after:
                stable()
            await asyncio.sleep(patience.health_interval.total_seconds())

    async def _unless_ended(self, work: Coroutine[Any, Any, None]) -> Ended | None:
        end = asyncio.ensure_future(self._runtime.wait(self._process.instance))
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({end, task}, return_when=asyncio.FIRST_COMPLETED)
            return end.result() if end.done() else task.result()
        finally:
            end.cancel()
            task.cancel()
            await asyncio.gather(end, task, return_exceptions=True)
