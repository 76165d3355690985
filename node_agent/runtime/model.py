"""The port of a runtime: what starts, watches, measures and ends a workload on this machine."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from mesh.errors import DomainError, Kind


class LaunchError(DomainError):
    """The operating system would not start the program."""

    kind, reason = Kind.UNAVAILABLE, "UNAVAILABLE"


class RuntimeAwayError(DomainError):
    """The runtime does not answer now, which passes; what runs in it goes on."""

    kind, reason = Kind.UNAVAILABLE, "CONTAINER_ENGINE_UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Containment:
    """What holds a workload in a container of `image`; a plain process has none.

    `ports` are published on `address`, under the same numbers. The directories of `readable` and `writable` are seen
    inside at the same paths. `memory_mb` is the hard limit (0 = the machine's), `gpus` are NVML UUIDs or indexes.
    `health_url` answers with status 200 from inside. Empty `argv` of the launch means the image's own command.
    """

    image: str
    name: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    memory_mb: int = 0
    gpus: tuple[str, ...] = ()
    health_url: str = ""


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start. `mark` is carried by the instance, so that it is known again without any journal."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    mark: str
    containment: Containment | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """Something that was started by a runtime of that name. `birth` tells it from a later one with the same id."""

    container_id: str
    pid: int
    birth: str
    runtime: str = "process"


@dataclass(frozen=True, slots=True)
class Marked:
    """A running instance and the mark that it was started with."""

    instance: Instance
    mark: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How an instance ended: `code` as subprocess gives it (negative = signal), None when nobody could know.

    `memory_limit_mb` is the limit that an instance out of memory ran into; 0 = the machine's own.
    """

    code: int | None = field(default=None)
    out_of_memory: bool = False
    memory_limit_mb: int = 0

    def __str__(self) -> str:
        if self.out_of_memory:
            limit = f" at its limit of {self.memory_limit_mb:,} MB" if self.memory_limit_mb else ""
            return f"was killed for lack of memory{limit}"
        if self.code is None:
            return "ended with an unknown exit code, because an earlier agent had started it"
        return f"was ended by signal {-self.code}" if self.code < 0 else f"ended with exit code {self.code}"


@dataclass(frozen=True, slots=True)
class Usage:
    """What an instance takes: resident megabytes, and percent of one core since the last reading."""

    memory_mb: int = 0
    cpu_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class RuntimeReadiness:
    """Which runtimes work now, and why one that should does not."""

    names: tuple[str, ...]
    trouble: str = ""


class Runtime(Protocol):
    """A way to run workloads. Instances outlive the agent; nothing here ends because the agent does."""

    @property
    def name(self) -> str: ...

    @property
    def limits_memory(self) -> bool:
        """Whether it holds an instance to a memory limit; one that does not leaves that to the machine."""
        ...

    def readiness(self) -> RuntimeReadiness:
        """Whether it can run anything now."""
        ...

    async def watch(self) -> None:
        """Keeps an eye on what runs, until cancelled; run it beside everything else."""
        ...

    async def start(self, launch: Launch) -> Instance:
        """Starts. Let it come to its end: what a start cut short leaves behind is cleared away. Raises LaunchError."""
        ...

    async def adopt(self, instance: Instance) -> bool:
        """Watches an instance that an earlier agent started; whether it may still run. If not, `wait` says so."""
        ...

    async def marked(self, owner: str) -> Sequence[Marked]:
        """Everything that runs here with a mark that begins with `owner`."""
        ...

    async def wait(self, instance: Instance) -> Ended:
        """Returns when the instance has ended."""
        ...

    async def stop(self, instance: Instance, grace: timedelta) -> Ended:
        """Asks it to end, forces it after `grace`; nothing that it started is left."""
        ...

    def usage(self, instance: Instance) -> Usage:
        """What it takes now. Never blocks for long."""
        ...

    def forget(self, instance: Instance) -> None:
        """Lets go of an instance that has ended."""
        ...

    async def tidy(self, images: Collection[str]) -> None:
        """Clears away what nobody knows any more. Call when everything known is adopted; `images` are still wanted."""
        ...
