"""Keeps one service running: start, wait for health, watch, restart with backoff, stop."""

import asyncio
import signal
import time
from asyncio.subprocess import DEVNULL, STDOUT
from asyncio.subprocess import Process as Child
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from mesh.loops import Backoff
from stack import logs
from stack.processes import Process, gone
from stack.service import Report, Service, State, StepFailedError

POLL_S = 0.05
WATCH_S = 5.0
PROBE_TIMEOUT_S = 3.0
BACKOFF = Backoff(first=timedelta(milliseconds=200), limit=timedelta(seconds=10))
STEADY_S = 30.0
# A start that takes longer says what it waits for.
EXPLAIN_AFTER_S = 3.0
FIRST_ATTEMPTS = 3


class ServiceFailedError(RuntimeError):
    """A service that never became healthy; the message has the end of its log."""


class Runner:
    """One service and the process that runs it now."""

    def __init__(self, service: Service, log: Path, directory: Path, show: Callable[[Report], None]) -> None:
        self.service = service
        self.log = log
        needs = f"for {' and '.join(service.needs)}" if service.needs else ""
        self.report = Report(name=service.name, state=State.WAITING, address=service.address, note=needs)
        self.healthy = asyncio.Event()
        self._directory = directory
        self._show = show
        self._stop = asyncio.Event()
        self._child: Child | None = None
        self._ever_healthy = False
        self._missing = ""

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    async def keep(self) -> None:
        """Run the service until `stop`, again and again. Raises ServiceFailedError if it never becomes healthy."""
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                problem = await self._run_once()
            except (StepFailedError, OSError) as error:
                problem = str(error)
                await self._end_child()
            if self._stop.is_set():
                return
            self.healthy.clear()
            failures = 1 if time.monotonic() - began > STEADY_S else failures + 1
            if not self._ever_healthy and failures >= FIRST_ATTEMPTS:
                self._change(State.FAILED, note=problem)
                end_of_log = f"the end of {self.log}:\n{logs.tail(self.log)}"
                raise ServiceFailedError(f"{self.service.name} {problem}; {end_of_log}")
            await self._pause(failures, problem)

    async def stop(self) -> None:
        """End the process: its stop signal, its grace, then SIGKILL to its group."""
        self._stop.set()
        if self._child is None or self._child.returncode is not None:
            self._change(State.STOPPED, pid=None, started=None)
            return
        self._change(State.STOPPING)
        await self._wind_down()
        await self._end_child()
        self._change(State.STOPPED, pid=None, started=None)

    def kill(self) -> None:
        """End the process at once."""
        self._stop.set()
        process = Process.of(self._child.pid) if self._child is not None else None
        if process is not None:
            process.signal(signal.SIGKILL, group=True)

    async def _run_once(self) -> str:
        """One life of the process; answers why it ended."""
        began = time.monotonic()
        await self.service.prepare()
        if self._stop.is_set():
            return "was stopped"
        self._child = child = await self._spawn()
        process = Process.of(child.pid)
        self._change(State.STARTING, pid=child.pid, started=process.started if process else None)
        ended = asyncio.ensure_future(child.wait())
        try:
            if await self._becomes_healthy(ended):
                await self.service.settle()
                self._ever_healthy = True
                self._change(State.HEALTHY, seconds=time.monotonic() - began)
                self.healthy.set()
                await self._watch(ended)
            elif not ended.done() and not self._stop.is_set():
                await self._end_child()
                return f"was not healthy within {self.service.start_timeout_s:.0f} s: {self._missing}"
            return _ending(await ended)
        finally:
            ended.cancel()

    async def _spawn(self) -> Child:
        with logs.open_log(self.log) as log:
            return await asyncio.create_subprocess_exec(
                *self.service.command,
                env=dict(self.service.environment),
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
                cwd=self._directory if not self.service.child_user else "/",
                start_new_session=True,
                **self.service.child_user,
            )

    async def _becomes_healthy(self, ended: asyncio.Future[int]) -> bool:
        began = time.monotonic()
        while time.monotonic() - began < self.service.start_timeout_s and not ended.done() and not self._stop.is_set():
            if await self._probe():
                return True
            if time.monotonic() - began > EXPLAIN_AFTER_S and self._missing != self.report.note:
                self._change(State.STARTING, note=self._missing)
            await asyncio.wait([ended], timeout=POLL_S)
        return False

    async def _watch(self, ended: asyncio.Future[int]) -> None:
        """Show whether the service stays healthy, until its process ends. A sick process is shown, not killed."""
        while not (await asyncio.wait([ended], timeout=WATCH_S))[0]:
            state = State.HEALTHY if await self._probe() else State.UNHEALTHY
            if state is not self.report.state and self.report.state in {State.HEALTHY, State.UNHEALTHY}:
                self._change(state, note=self._missing)

    async def _probe(self) -> bool:
        """Whether nothing is missing; what is, is kept in words."""
        try:
            self._missing = await asyncio.wait_for(self.service.missing(), PROBE_TIMEOUT_S)
        except TimeoutError:
            self._missing = f"no answer to a health check within {PROBE_TIMEOUT_S:.0f} s"
        except OSError as error:
            self._missing = f"the health check failed: {error}"
        return not self._missing

    async def _pause(self, failures: int, problem: str) -> None:
        delay = BACKOFF.pause(failures).total_seconds()
        note = f"{problem}; next start in {delay:.1f} s"
        self._change(State.RESTARTING, pid=None, started=None, restarts=self.report.restarts + 1, note=note)
        try:
            await asyncio.wait_for(self._stop.wait(), delay)
        except TimeoutError:
            return

    async def _wind_down(self) -> None:
        try:
            await asyncio.wait_for(self.service.wind_down(), self.service.grace_s)
        except (OSError, TimeoutError):
            return

    async def _end_child(self) -> None:
        process = None if self._child is None else Process.of(self._child.pid)
        if process is None:
            return
        process.signal(self.service.stop_signal)
        if not await gone([process], self.service.grace_s):
            process.signal(signal.SIGKILL, group=True)
            await gone([process], self.service.grace_s)

    def _change(self, state: State, **changes: object) -> None:
        note = changes.pop("note", "")
        self.report = replace(self.report, state=state, note=str(note), **changes)  # type: ignore[arg-type]
        self._show(self.report)


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
