"""The runtime of plain processes: each workload a session of its own, which outlives the agent.

A process is known by its pid and birth (boot id and start time in clock ticks, from proc(5)), so a pid that was used
again is never taken for it, whatever the wall clock does. Its end is told by a pidfd, for children and adopted alike.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psutil

from node_agent.runtime.model import Ended, Instance, Launch, LaunchError, Marked, RuntimeReadiness, Usage
from node_agent.runtime.output import open_log

MARK = "AIOPS_WORKLOAD"
_MIB = 1024 * 1024
_START_TIME = 19  # proc(5): field 22 of stat; the third is the first after the name


@dataclass(slots=True)
class _Watched:
    pidfd: int
    ended: asyncio.Future[Ended]
    child: "subprocess.Popen[bytes] | None"
    oom_kills: int
    processes: dict[int, psutil.Process] = field(default_factory=dict)


class ProcessRuntime:
    """Runs workloads as processes. Use from one event loop."""

    name = "process"
    limits_memory = False

    def __init__(self) -> None:
        self._watched: dict[Instance, _Watched] = {}

    def readiness(self) -> RuntimeReadiness:
        return RuntimeReadiness((self.name,))

    async def watch(self) -> None:
        """Pidfds tell."""

    async def start(self, launch: Launch) -> Instance:
        try:
            child = _spawn(launch)
        except OSError as error:
            raise LaunchError(f"cannot start {launch.argv[0]}: {error.strerror}", program=launch.argv[0]) from error
        instance = Instance(str(child.pid), child.pid, _birth(child.pid))
        self._watch(instance, os.pidfd_open(child.pid), child)
        return instance

    async def adopt(self, instance: Instance) -> bool:
        if instance in self._watched:
            return True
        try:
            pidfd = os.pidfd_open(instance.pid)
        except OSError:
            return self._lost(instance)
        # The pidfd is open: from here on the pid cannot come to mean another process unseen.
        if _birth(instance.pid) != instance.birth:
            os.close(pidfd)
            return self._lost(instance)
        self._watch(instance, pidfd, None)
        return True

    async def marked(self, owner: str) -> Sequence[Marked]:
        return marked_processes(owner)

    async def wait(self, instance: Instance) -> Ended:
        return await asyncio.shield(self._watched[instance].ended)

    async def stop(self, instance: Instance, grace: timedelta) -> Ended:
        watched = self._watched[instance]
        if not watched.ended.done():
            family = list(_family(instance.pid))
            _signal_group(instance.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace.total_seconds()):
                    await asyncio.shield(watched.ended)
            _signal_group(instance.pid, signal.SIGKILL)
            for process in family:
                with contextlib.suppress(psutil.Error):
                    process.kill()  # psutil checks that it is still the same process
        return await asyncio.shield(watched.ended)

    def usage(self, instance: Instance) -> Usage:
        watched = self._watched.get(instance)
        if watched is None:
            return Usage()
        # Objects are kept between readings: psutil measures CPU since the object's last reading.
        watched.processes = {each.pid: watched.processes.get(each.pid, each) for each in _family(instance.pid)}
        memory, cpu = 0, 0.0
        for process in watched.processes.values():
            with contextlib.suppress(psutil.Error), process.oneshot():
                memory += process.memory_info().rss
                cpu += process.cpu_percent()
        return Usage(memory // _MIB, cpu)

    def forget(self, instance: Instance) -> None:
        """Lets go of an instance that has ended."""
        watched = self._watched.get(instance)
        if watched and watched.ended.done():
            del self._watched[instance]

    async def tidy(self, images: Collection[str]) -> None:
        """A process that nobody knows is left alone: a mark is no proof of whose it is."""

    def _lost(self, instance: Instance) -> bool:
        watched = _Watched(-1, asyncio.get_running_loop().create_future(), None, _oom_kills())
        watched.ended.set_result(Ended())
        self._watched[instance] = watched
        return False

    def _watch(self, instance: Instance, pidfd: int, child: "subprocess.Popen[bytes] | None") -> None:
        loop = asyncio.get_running_loop()
        self._watched[instance] = _Watched(pidfd, loop.create_future(), child, _oom_kills())
        loop.add_reader(pidfd, self._on_end, instance)

    def _on_end(self, instance: Instance) -> None:
        watched = self._watched[instance]
        asyncio.get_running_loop().remove_reader(watched.pidfd)
        os.close(watched.pidfd)
        # Before the child is reaped: until then its id, which is the group's, belongs to nobody else.
        _signal_group(instance.pid, signal.SIGKILL)
        code = watched.child.wait() if watched.child else None
        starved = code in {-signal.SIGKILL, None} and _oom_kills() > watched.oom_kills
        watched.ended.set_result(Ended(code, out_of_memory=starved))


def marked_processes(owner: str) -> Sequence[Marked]:
    """The oldest process of each mark that begins with `owner`."""
    found: dict[str, Marked] = {}
    for pid in sorted(psutil.pids(), key=_birth_ticks):
        mark = _mark_of(pid)
        if mark.startswith(owner) and mark not in found:
            found[mark] = Marked(Instance(str(pid), pid, _birth(pid)), mark)
    return list(found.values())


def boot_id() -> str:
    """Changes when the machine boots."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _spawn(launch: Launch) -> "subprocess.Popen[bytes]":
    """The child, which leads a session of its own and writes its log itself. Raises OSError."""
    launch.directory.mkdir(parents=True, exist_ok=True)
    log = open_log(launch.log)
    try:
        return subprocess.Popen(
            launch.argv,
            env={**launch.environment, MARK: launch.mark},
            cwd=launch.directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)


def _birth(pid: int) -> str:
    return f"{boot_id()}:{_birth_ticks(pid)}"


def _birth_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot; 0 for none and for one that has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if state in {"Z", "X"} else int(fields[_START_TIME - 1])


def _mark_of(pid: int) -> str:
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return ""
    wanted = f"{MARK}=".encode()
    return next((each[len(wanted) :].decode() for each in content.split(b"\0") if each.startswith(wanted)), "")


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _family(pid: int) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        leader = psutil.Process(pid)
        yield leader
        yield from leader.children(recursive=True)


def _oom_kills() -> int:
    """How often the kernel has killed for memory, on the whole machine."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
