"""Operating system processes by identity: a pid with its start time, so that a reused pid is never taken for ours."""

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.02
KILL_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this boot; `started` is in clock ticks since then (field 22 of /proc/PID/stat, see proc(5))."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The process that has the pid now; None when there is none or only its exit status is left."""
        fields = _stat(pid)
        return None if fields is None or fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the process, or to its whole group, if it is still this process."""
        if not self.alive:
            return
        try:
            (os.killpg if group else os.kill)(self.pid, number)
        except ProcessLookupError:
            return


def become_subreaper() -> None:
    """Make processes whose parent dies children of this one (prctl(2)), so that none can escape being ended."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int) -> list[Process]:
    """Every living process below `root`, whatever session it moved to; parents come before their children."""
    parents: dict[int, list[Process]] = {}
    for process, parent in _living():
        parents.setdefault(parent, []).append(process)
    found: list[Process] = []
    waiting = list(parents.get(root, ()))
    while waiting:
        process = waiting.pop()
        found.append(process)
        waiting.extend(parents.get(process.pid, ()))
    return found


def running_below(directory: Path) -> list[Process]:
    """Processes without a terminal that lead their session and work in `directory`: engines that lost their agent."""
    root = directory.resolve()
    return [process for process, _ in _living() if _leads_session(process.pid) and _works_in(process.pid, root)]


async def end(processes: Iterable[Process], grace_s: float, *, stop_signal: int = signal.SIGTERM) -> None:
    """Ask the processes to stop, and kill what is left after the grace."""
    targets = [process for process in processes if process.alive]
    for process in targets:
        process.signal(stop_signal)
    await gone(targets, grace_s)
    for process in targets:
        process.signal(signal.SIGKILL)
    await gone(targets, KILL_WAIT_S)


async def gone(processes: Iterable[Process], timeout_s: float) -> bool:
    """Wait until none of the processes lives; False when some still do at the end."""
    deadline = time.monotonic() + timeout_s
    remaining = [process for process in processes if process.alive]
    while remaining and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)
        remaining = [process for process in remaining if process.alive]
    return not remaining


def reap(known: Iterable[int]) -> None:
    """Collect the exit status of adopted children, those that nobody in this program waits for."""
    keep = set(known)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in keep:
            continue
        fields = _stat(int(entry.name))
        if fields is not None and fields[0] == "Z" and int(fields[1]) == os.getpid():
            _collect(int(entry.name))


def _collect(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _living() -> Iterable[tuple[Process, int]]:
    """Each living process with its parent's pid."""
    for entry in Path("/proc").iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else None
        if fields is not None and fields[0] not in "ZX":
            yield Process(int(entry.name), int(fields[19])), int(fields[1])


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command's name: state, ppid, pgrp, session, tty, …"""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _leads_session(pid: int) -> bool:
    fields = _stat(pid)
    return fields is not None and int(fields[3]) == pid and int(fields[4]) == 0


def _works_in(pid: int, root: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(root)
    except (OSError, ValueError):
        return False
