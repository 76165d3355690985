"""Starts the services in their order, keeps them running, and leaves nothing behind."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Coroutine, Sequence

from stack import logs
from stack.board import Board
from stack.home import Home, Snapshot, read_state, write_state
from stack.processes import Process, become_subreaper, descendants, end, reap, running_below
from stack.runner import Runner, ServiceFailedError
from stack.service import Report, Service

HOUSEKEEPING_S = 5.0
ORPHAN_GRACE_S = 5.0
LEFTOVER_GRACE_S = 15.0

Background = Callable[[Callable[[Report], None]], Coroutine[object, object, None]]


class Supervisor:
    """All services of one home, and work that goes on beside them."""

    def __init__(
        self, home: Home, services: Sequence[Service], board: Board, url: str, background: Sequence[Background] = ()
    ) -> None:
        self._home = home
        self._board = board
        self._url = url
        self._began = time.monotonic()
        self._ready = False
        self._problem = ""
        self._background = background
        self._reports: dict[str, Report] = {}
        self._stop = asyncio.Event()
        self._runners = {
            service.name: Runner(service, home.log(service.name), home.run, self._show) for service in services
        }

    def request_stop(self) -> None:
        """Begin to stop; asked again, end everything at once."""
        if self._stop.is_set():
            for runner in self._runners.values():
                runner.kill()
        self._stop.set()

    async def run(self) -> None:
        """Start everything, keep it until a stop is requested, then stop everything.

        Raises ServiceFailedError when a service cannot be started at all.
        """
        become_subreaper()
        others = set(descendants(os.getpid()))
        for runner in self._runners.values():
            self._board.show(runner.report)
        try:
            await self._keep_all()
        except* ServiceFailedError as failures:
            self._problem = str(failures.exceptions[0])
            raise failures.exceptions[0] from None
        finally:
            await self._stop_all()
            await end(set(descendants(os.getpid())) - others, ORPHAN_GRACE_S)
            self._reap()
            self._write()

    async def _keep_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._keep(runner)) for runner in self._runners.values()]
            tasks.append(group.create_task(self._housekeeping()))
            tasks.append(group.create_task(self._announce()))
            tasks += [group.create_task(run(self._show)) for run in self._background]
            await self._stop.wait()
            for task in tasks:
                task.cancel()

    async def _keep(self, runner: Runner) -> None:
        for name in runner.service.needs:
            await self._runners[name].healthy.wait()
        await runner.keep()

    async def _announce(self) -> None:
        for runner in self._runners.values():
            await runner.healthy.wait()
        self._ready = True
        self._write()
        self._board.ready(self._url, time.monotonic() - self._began)

    async def _housekeeping(self) -> None:
        """Keep the logs short and collect adopted processes that ended."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            for runner in self._runners.values():
                logs.trim(runner.log)
            self._reap()

    def _reap(self) -> None:
        reap(runner.pid for runner in self._runners.values() if runner.pid is not None)

    async def _stop_all(self) -> None:
        stages = sorted({runner.service.stage for runner in self._runners.values()}, reverse=True)
        for stage in stages:
            group = [runner.stop() for runner in self._runners.values() if runner.service.stage == stage]
            await asyncio.gather(*group)

    def _show(self, report: Report) -> None:
        self._reports[report.name] = report
        self._board.show(report)
        self._write()

    def _write(self) -> None:
        reports = {**{name: runner.report for name, runner in self._runners.items()}, **self._reports}
        state = Snapshot(os.getpid(), self._url, self._ready, tuple(reports.values()), self._problem)
        with contextlib.suppress(OSError):  # a full disk must not end what runs
            write_state(self._home, state)


async def end_leftovers(home: Home) -> list[Process]:
    """End what an earlier stack of this home left when it was killed; answers what that was.

    Call with the home's lock held. Leftovers are the recorded processes, and any that work in the home's own
    directories without a terminal: engines whose node agent is gone, a service started just before the end.
    """
    state = read_state(home)
    reports = () if state is None else state.services
    recorded = [Process(report.pid, report.started) for report in reversed(reports) if report.pid and report.started]
    found = [process for process in recorded if process.alive]
    await end(found, LEFTOVER_GRACE_S)
    strays = [stray for place in home.work_directories for stray in running_below(place)]
    await end(strays, LEFTOVER_GRACE_S)
    return [*found, *strays]
