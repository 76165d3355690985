"""One process of the cluster: started in its machine's namespace, and killed, frozen or restarted by hand."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stack.processes import Process, descendants
from stack.service import ChildUser
from tests.robustness.network import Machine

STOP_TIMEOUT_S = 20.0


@dataclass
class Member:
    """What runs, where, and how one sees that it works. Nothing restarts it but the test."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    healthy: Callable[[], bool]
    machine: Machine | None = None
    user: ChildUser = field(default_factory=ChildUser)
    stop_signal: int = signal.SIGTERM
    process: "subprocess.Popen[bytes] | None" = None
    # Whether it was started with more than its usual environment.
    altered: bool = False

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was never started"
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def is_gone(self) -> bool:
        """Whether it has ended."""
        return not self.alive

    def spawn(self, **environment: str) -> None:
        """Starts it with additional environment; does not wait."""
        assert not self.alive, f"{self.name} runs already"
        self.altered = bool(environment)
        command = [*self._as_user(), *self.command]
        command = self.machine.command(*command) if self.machine else command
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )

    def _as_user(self) -> list[str]:
        # Not by `Popen`, which has to fork for that, and a fork of a program whose threads speak gRPC may crash.
        if not self.user:
            return []
        return ["setpriv", f"--reuid={self.user['user']}", f"--regid={self.user['group']}", "--clear-groups"]

    def until_healthy(self, within_s: float = 40.0) -> None:
        """Returns when it works; AssertionError with the end of its log when it does not in time or has ended."""
        deadline = time.monotonic() + within_s
        while not self.healthy():
            if not self.alive or time.monotonic() > deadline:
                state = "has ended" if not self.alive else f"was not healthy within {within_s:.0f} s"
                raise AssertionError(f"{self.name} {state}; the end of {self.log}:\n{self.tail()}")
            time.sleep(0.03)

    def start(self, **environment: str) -> None:
        """Starts it and waits until it works."""
        self.spawn(**environment)
        self.until_healthy()

    def kill(self) -> None:
        """SIGKILL, to this process alone: engines have sessions of their own."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """Asks it to end and waits; its exit status. One that does not end in time is killed, and that is an error."""
        if not self.alive:
            return 0
        self.signal(signal.SIGCONT)
        self.signal(self.stop_signal)
        return self.wait()

    def restart(self, **environment: str) -> None:
        """Kills it where it still runs, and starts it."""
        if self.alive:
            self.kill()
        self.start(**environment)

    def wait(self, within_s: float = STOP_TIMEOUT_S) -> int:
        """Its exit status, once it has ended."""
        assert self.process is not None
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait(within_s)
            raise AssertionError(f"{self.name} did not end within {within_s:.0f} s:\n{self.tail()}") from None

    def signal(self, number: int) -> None:
        """A signal, if it still runs."""
        if self.alive:
            os.kill(self.pid, number)

    @property
    def is_frozen(self) -> bool:
        """Whether it stands still."""
        process = Process.of(self.pid)
        return process is not None and Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It and all below it stand still, as a machine does that is paused."""
        family = [each for each in (Process.of(self.pid), *descendants(self.pid)) if each is not None]
        for process in family:
            process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in family:
                process.signal(signal.SIGCONT)

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def module(name: str, *arguments: str) -> list[str]:
    """The command line of one of the platform's own programs."""
    return [sys.executable, "-m", name, *arguments]
