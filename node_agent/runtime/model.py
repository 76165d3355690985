"""The port of a runtime: what starts, watches, measures and ends a workload on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from mesh.errors import DomainError, Kind


class LaunchError(DomainError):
    """The operating system would not start the program."""

    kind, reason = Kind.UNAVAILABLE, "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start. `mark` is carried by the instance, so that it is known again without any journal."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    mark: str


@dataclass(frozen=True, slots=True)
class Instance:
    """Something that was started. `birth` tells it from a later one that got the same id."""

    container_id: str
    pid: int
    birth: str


@dataclass(frozen=True, slots=True)
class Marked:
    """A running instance and the mark that it was started with."""

    instance: Instance
    mark: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How an instance ended: `code` as subprocess gives it (negative = signal), None when nobody could know."""

    code: int | None = field(default=None)
    out_of_memory: bool = False

    def __str__(self) -> str:
        if self.out_of_memory:
            return "was killed for lack of memory"
        if self.code is None:
            return "ended with an unknown exit code, because an earlier agent had started it"
        return f"was ended by signal {-self.code}" if self.code < 0 else f"ended with exit code {self.code}"


@dataclass(frozen=True, slots=True)
class Usage:
    """What an instance takes: resident megabytes, and percent of one core since the last reading."""

    memory_mb: int = 0
    cpu_percent: float = 0.0


class Runtime(Protocol):
    """A way to run workloads. Instances outlive the agent; nothing here ends because the agent does."""

    @property
    def name(self) -> str: ...

    def start(self, launch: Launch) -> Instance:
        """Starts without waiting, so that no cancellation can lose the instance. Raises LaunchError."""
        ...

    def adopt(self, instance: Instance) -> bool:
        """Watches an instance that an earlier agent started; whether it still runs. If not, `wait` says so at once."""
        ...

    def marked(self, owner: str) -> Sequence[Marked]:
        """Everything that runs here with a mark that begins with `owner`."""
        ...

    async def wait(self, instance: Instance) -> Ended:
        """Returns when the instance has ended."""
        ...

    async def stop(self, instance: Instance, grace: timedelta) -> Ended:
        """Asks it to end, forces it after `grace`; nothing that it started is left."""
        ...

    def usage(self, instance: Instance) -> Usage:
        """What it takes now."""
        ...

    def forget(self, instance: Instance) -> None:
        """Lets go of an instance that has ended."""
        ...
