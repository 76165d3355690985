"""The directory that holds everything a stack writes, and the lock that lets one stack at a time use it."""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from stack.files import write_private
from stack.service import Report, State


class AlreadyRunningError(RuntimeError):
    """Another stack uses the home."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where things are below $AIOPS_HOME."""

    root: Path

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def nodes(self) -> Path:
        return self.root / "nodes"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def state(self) -> Path:
        return self.run / "state.json"

    @property
    def envoy_bootstrap(self) -> Path:
        return self.run / "envoy.json"

    @property
    def admin_password(self) -> Path:
        return self.root / "admin-password"

    @property
    def transformers(self) -> Path:
        """Where nodes expect the engine's executable; a link that appears when it is installed."""
        return self.root / "engine" / "transformers"

    @property
    def work_directories(self) -> tuple[Path, ...]:
        """Where the stack's processes have their working directory, and nobody else."""
        return (self.nodes, self.run, self.root / "postgres")

    def node(self, name: str) -> Path:
        return self.nodes / name

    def log(self, service: str) -> Path:
        return self.logs / f"{service}.log"

    def create(self) -> None:
        """Make the directories, private to their user; who may pass through an existing home still may."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(self.root.stat().st_mode & 0o711)
        for directory in (self.logs, self.run, self.nodes):
            directory.mkdir(mode=0o700, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the state file says about a stack."""

    pid: int
    url: str
    ready: bool
    services: tuple[Report, ...]
    problem: str = ""

    def service(self, name: str) -> Report:
        return next(report for report in self.services if report.name == name)

    def unhealthy(self) -> str:
        """The services that are not healthy and why, a line each; empty when all are."""
        away = (each for each in self.services if each.state not in {State.HEALTHY, State.READY})
        return "\n".join(f"{each.name} is {each.state}" + (f": {each.note}" if each.note else "") for each in away)


def read_state(home: Home) -> Snapshot | None:
    """What the stack of this home last wrote; None before the first, or when the file is damaged."""
    try:
        fields = json.loads(home.state.read_text())
        fields["services"] = tuple(Report(**service) for service in fields["services"])
        return Snapshot(**fields)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_state(home: Home, snapshot: Snapshot) -> None:
    """Tell other processes how the stack is."""
    write_private(home.state, json.dumps(asdict(snapshot), indent=1))


def take_lock(home: Home) -> TextIO:
    """Take the home for this process until the file is closed. Raises AlreadyRunningError with what to do."""
    file = home.lock.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise AlreadyRunningError(_already_running(home)) from error
    file.truncate(0)
    file.write(f"{os.getpid()}")
    file.flush()
    return file


def is_running(home: Home) -> bool:
    """Whether a stack holds the home now."""
    if not home.lock.exists():
        return False
    with home.lock.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _already_running(home: Home) -> str:
    pid = home.lock.read_text().strip() or "unknown"
    state = read_state(home)
    url = f", {state.url}" if state is not None and str(state.pid) == pid else ""
    stop = "stop it with Ctrl-C there" + (f" or `kill {pid}`" if pid.isdigit() else "")
    return f"aiops is already running in {home.root} (pid {pid}{url}); {stop}, or choose another AIOPS_HOME"
