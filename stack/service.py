"""What the supervisor needs to know to run one service."""

import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypedDict


class ChildUser(TypedDict, total=False):
    """The arguments of `subprocess` that change a child's user."""

    user: int
    group: int
    extra_groups: Sequence[int]


class StepFailedError(RuntimeError):
    """A step around a start did not work; the message says which and why. It is tried again with the next start."""


async def nothing() -> None:
    """A step that a service does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One process to keep running.

    `missing` answers what the started process still lacks, in words, and nothing once it is healthy.
    `needs` names services that must be healthy before the first start; those of a higher `stage` stop first.
    `prepare` runs before each start, `settle` each time the service has become healthy and before anything that needs
    it starts, `wind_down` before a wanted stop.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    missing: Callable[[], Awaitable[str]]
    address: str
    stage: int
    needs: tuple[str, ...] = ()
    prepare: Callable[[], Awaitable[None]] = nothing
    settle: Callable[[], Awaitable[None]] = nothing
    wind_down: Callable[[], Awaitable[None]] = nothing
    child_user: ChildUser = field(default_factory=ChildUser)
    stop_signal: int = signal.SIGTERM
    start_timeout_s: float = 60.0
    grace_s: float = 10.0


class State(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    INSTALLING = "installing"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The line that is shown for a service."""

    name: str
    state: State
    address: str
    pid: int | None = None
    started: int | None = None
    restarts: int = 0
    seconds: float = 0.0
    note: str = ""
