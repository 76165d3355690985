"""The supervisor starts services in order, restarts what dies, and leaves nothing behind."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from stack.home import AlreadyRunningError, Home, Snapshot, read_state, take_lock, write_state
from stack.processes import Process, end, running_below
from stack.runner import ServiceFailedError
from stack.service import Report, Service, State, StepFailedError
from stack.supervisor import Supervisor, end_leftovers

SERVE = "import pathlib, signal, sys; pathlib.Path(sys.argv[1]).touch(); signal.pause()"
IDLE = "import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SERVE
ESCAPES = "import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True); " + SERVE
TIMEOUT_S = 20


class Record:
    """A board that keeps what it is shown, and lets a test wait for a line."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.notes: list[str] = []
        self._changed = asyncio.Event()

    def show(self, report: Report) -> None:
        if report.state is not State.WAITING:
            self.reports.append(report)
        self._changed.set()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def ready(self, url: str, seconds: float) -> None:
        self.note(url)
        self._changed.set()

    def close(self) -> None: ...

    async def until(self, condition: Callable[["Record"], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()

    def states(self, name: str) -> list[State]:
        return [report.state for report in self.reports if report.name == name]

    def pids(self, name: str) -> list[int]:
        healthy = [report for report in self.reports if report.name == name and report.state is State.HEALTHY]
        return [report.pid for report in healthy if report.pid is not None]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


@pytest.fixture(autouse=True)
def nothing_is_left(home: Home) -> Iterator[None]:
    yield
    assert running_below(home.run) == []


def service(home: Home, name: str, program: str = SERVE, **changes: object) -> Service:
    """A process that is healthy once it has made its file."""
    file = home.run / name

    async def remove() -> None:
        file.unlink(missing_ok=True)

    async def missing() -> str:
        return "" if file.exists() else f"{file.name} has not made its file"

    plain = Service(
        name=name,
        stage=0,
        command=(sys.executable, "-c", program, str(file)),
        environment={},
        missing=missing,
        address="",
        prepare=remove,
        grace_s=5,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def running(home: Home, *services: Service) -> AsyncIterator[Record]:
    """The services under a supervisor that is stopped in the end."""
    board = Record()
    supervisor = Supervisor(home, services, board, "http://here")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(supervisor.run())
        try:
            yield board
        finally:
            supervisor.request_stop()
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.wait([task])


async def test_starts_in_order_and_stops_in_reverse(home: Home) -> None:
    store = service(home, "store")
    above = service(home, "above", stage=1, needs=("store",))
    async with running(home, store, above) as board:
        await board.until(lambda seen: seen.notes == ["http://here"])
        state = read_state(home)
    shown = [(report.name, report.state) for report in board.reports]
    assert shown == [
        ("store", State.STARTING),
        ("store", State.HEALTHY),
        ("above", State.STARTING),
        ("above", State.HEALTHY),
        ("above", State.STOPPING),
        ("above", State.STOPPED),
        ("store", State.STOPPING),
        ("store", State.STOPPED),
    ]
    assert state is not None
    assert state.ready
    assert state.service("store").pid == board.pids("store")[0]


async def test_a_killed_service_is_started_again(home: Home) -> None:
    async with running(home, service(home, "one")) as board:
        await board.until(lambda seen: len(seen.pids("one")) == 1)
        os.kill(board.pids("one")[0], signal.SIGKILL)
        await board.until(lambda seen: len(seen.pids("one")) == 2)
    first, second = board.pids("one")
    assert first != second
    restarting = next(report for report in board.reports if report.state is State.RESTARTING)
    assert "was ended by SIGKILL" in restarting.note
    assert restarting.restarts == 1


async def test_a_service_that_ignores_the_stop_signal_is_killed(home: Home) -> None:
    async with running(home, service(home, "stubborn", STUBBORN, grace_s=0.2)) as board:
        await board.until(lambda seen: len(seen.pids("stubborn")) == 1)
    assert board.states("stubborn")[-1] is State.STOPPED


async def test_a_process_that_escapes_its_session_is_ended_too(home: Home) -> None:
    async with running(home, service(home, "escapes", ESCAPES)) as board:
        await board.until(lambda seen: len(seen.pids("escapes")) == 1)
        strays = [stray for stray in running_below(home.run) if stray.pid != board.pids("escapes")[0]]
        assert len(strays) == 1
    assert not strays[0].alive


async def test_a_service_that_never_starts_fails_with_the_end_of_its_log(home: Home) -> None:
    broken = service(home, "broken", "raise SystemExit('no such setting')")
    other = service(home, "other")
    supervisor = Supervisor(home, [other, broken], Record(), "")
    with pytest.raises(ServiceFailedError, match="no such setting"):
        await asyncio.wait_for(supervisor.run(), TIMEOUT_S)


async def test_a_start_that_takes_long_says_what_it_waits_for(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.runner.EXPLAIN_AFTER_S", 0.0)
    slow = service(home, "slow", IDLE)
    above = service(home, "above", stage=1, needs=("slow",))
    async with running(home, slow, above) as board:
        await board.until(lambda seen: any(report.note for report in seen.reports))
        state = read_state(home)
    assert state is not None
    assert state.unhealthy().splitlines() == [
        "slow is starting: slow has not made its file",
        "above is waiting: for slow",
    ]


async def test_a_start_that_takes_too_long_fails_with_what_was_missing(home: Home) -> None:
    slow = service(home, "slow", IDLE, start_timeout_s=0.1)
    supervisor = Supervisor(home, [slow], Record(), "")
    with pytest.raises(ServiceFailedError, match=r"was not healthy within 0 s: slow has not made its file"):
        await asyncio.wait_for(supervisor.run(), TIMEOUT_S)


async def test_a_step_that_fails_once_is_tried_again(home: Home) -> None:
    attempts = 0

    async def settle() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise StepFailedError("not yet")

    async with running(home, service(home, "one", settle=settle)) as board:
        await board.until(lambda seen: len(seen.pids("one")) == 1)
    notes = [report.note for report in board.reports if report.state is State.RESTARTING]
    assert len(notes) == 1
    assert notes[0].startswith("not yet")


async def test_a_second_supervisor_is_told_who_is_first(home: Home) -> None:
    with take_lock(home), pytest.raises(AlreadyRunningError, match=rf"already running in .* \(pid {os.getpid()}\)"):
        take_lock(home)
    take_lock(home).close()


async def test_leftovers_of_a_killed_stack_are_ended_and_a_reused_pid_is_not(home: Home) -> None:
    stray = await asyncio.create_subprocess_exec("sleep", "600", cwd=home.run, start_new_session=True)
    recorded = await asyncio.create_subprocess_exec("sleep", "600", cwd="/", start_new_session=True)
    bystander = await asyncio.create_subprocess_exec("sleep", "600", cwd="/", start_new_session=True)
    processes = [process for child in (recorded, bystander) if (process := Process.of(child.pid)) is not None]
    reports = [
        Report(name="recorded", state=State.HEALTHY, address="", pid=recorded.pid, started=processes[0].started),
        Report(name="reused", state=State.HEALTHY, address="", pid=bystander.pid, started=processes[1].started - 1),
    ]
    write_state(home, Snapshot(1, "", True, tuple(reports)))
    await end_leftovers(home)
    assert bystander.returncode is None
    assert processes[1].alive
    await end([processes[1]], 5)
    for child in (stray, recorded, bystander):
        assert await asyncio.wait_for(child.wait(), TIMEOUT_S) < 0
