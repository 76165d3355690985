"""The platform of the demonstration: `aiops up` as a process, seen from outside."""

import asyncio
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from stack import logs
from stack.demo.story import DemoFailedError, expect
from stack.home import Home, Snapshot, read_state
from stack.processes import Process as Identity
from stack.processes import descendants, end, running_below
from stack.service import State

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.1


class Platform:
    """A running `aiops up`."""

    def __init__(self, home: Home, child: Process) -> None:
        self.home = home
        self._child = child

    @property
    def state(self) -> Snapshot:
        """What the platform last wrote about itself."""
        state = read_state(self.home)
        if state is None or state.pid != self._child.pid:
            raise DemoFailedError(f"the platform has not written {self.home.state}")
        return state

    async def healthy(self, awaits: Callable[[str], None]) -> Snapshot:
        """Wait until every service is healthy, telling which are not. Raises DemoFailedError with the log's end."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._child.returncode is None:
            state = read_state(self.home)
            if state is not None and state.pid == self._child.pid:
                if state.ready:
                    return state
                awaits(state.unhealthy())
            await asyncio.sleep(POLL_S)
        raise DemoFailedError(f"{self._why_not_healthy()}\n{logs.tail(self.home.log('up'), 40)}")

    async def kill_agent(self, name: str) -> int:
        """SIGKILL a node's agent; answers its pid."""
        agent = self.state.service(name)
        expect(agent.pid and agent.started, f"{name} does not run")
        assert agent.pid is not None
        assert agent.started is not None
        Identity(agent.pid, agent.started).signal(signal.SIGKILL)
        return agent.pid

    async def back(self, name: str, killed: int) -> int:
        """Wait until a killed service is healthy again; answers its new pid."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            report = self.state.service(name)
            if report.state == State.HEALTHY and report.pid is not None and report.pid != killed:
                return report.pid
            await asyncio.sleep(POLL_S)
        raise DemoFailedError(f"{name} is not back after {START_TIMEOUT_S:.0f} s:\n{self.state.unhealthy()}")

    async def stop(self) -> list[Identity]:
        """SIGTERM; answers every process that the platform had. Raises DemoFailedError unless it ends well."""
        processes = descendants(self._child.pid)
        self._child.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(self._child.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            still = f"the platform did not stop within {STOP_TIMEOUT_S:.0f} s:\n{self.state.unhealthy()}"
            raise DemoFailedError(still) from None
        expect(code == 0, f"the platform ended with exit code {code}:\n{logs.tail(self.home.log('up'))}")
        return processes

    def remains(self, processes: list[Identity]) -> list[str]:
        """What is left of a stopped platform: processes, sockets, listening ports."""
        strays = [stray for place in self.home.work_directories for stray in running_below(place)]
        pids = {process.pid for process in [*processes, *strays] if process.alive}
        sockets = [path for path in self.home.root.rglob("*") if path.is_socket()]
        port = int(self.state.url.rpartition(":")[2])
        listening = [f"port {port}"] if _accepts(port) else []
        return [*(f"process {pid}" for pid in sorted(pids)), *(f"socket {path}" for path in sockets), *listening]

    def _why_not_healthy(self) -> str:
        if self._child.returncode is not None:
            return f"the platform ended with exit code {self._child.returncode} before it was healthy:"
        state = read_state(self.home)
        missing = "it has not said anything" if state is None else state.unhealthy()
        return f"the platform was not healthy within {START_TIMEOUT_S:.0f} s:\n{missing}\nThe end of its log:"


@asynccontextmanager
async def running(home: Home, environment: Mapping[str, str], nodes: int) -> AsyncIterator[Platform]:
    """`aiops up` in `home`; whatever happens, it is ended with the block."""
    home.create()
    with logs.open_log(home.log("up")) as log:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", "up", "--nodes", str(nodes)),
            env=dict(environment),
            stdin=DEVNULL,
            stdout=log,
            stderr=STDOUT,
            start_new_session=True,
        )
    try:
        yield Platform(home, child)
    finally:
        identity = Identity.of(child.pid)
        if child.returncode is None and identity is not None:
            await end([identity, *descendants(child.pid)], STOP_TIMEOUT_S)
            await child.wait()


def demo_model() -> Path:
    """The model that the repository brings along."""
    return Path(__file__).resolve().parents[2] / "examples" / "demo-model"


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
