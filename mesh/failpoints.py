"""Named places where a test lets a service fail: a crash, a delay or an error between two steps that must both happen.

Nothing is armed unless AIOPS_FAILPOINTS says so: then a place costs one lookup in an empty mapping. Its form is
`name=panic|sleep:MS|error:KIND`, separated by commas; KIND is aborted, deadline, exhausted or unavailable. `%P`
behind an action makes it happen in P percent of the passes, `*N` lets it happen N times at most:
`relay.published=panic,commit.done=error:unavailable%20`.
"""

import asyncio
import logging
import os
import random
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh.errors import ConflictError, DeadlineExceededError, DomainError, ExhaustedError, UnavailableError

log = logging.getLogger(__name__)

_FORM = re.compile(r"([a-z0-9_.]+)=(?:(panic)|sleep:(\d+)|error:([a-z_]+))(?:%(\d+))?(?:\*(\d+))?")


_ERRORS = (ConflictError, DeadlineExceededError, ExhaustedError, UnavailableError)


@dataclass(slots=True)
class Failpoint:
    """What happens at one place. The choice of a share is repeatable: it depends on the name and the pass alone."""

    name: str
    sleep_ms: int = 0
    error: type[DomainError] | None = None
    percent: int = 100
    left: int = 1_000_000_000
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.name)  # noqa: S311 - repeatable on purpose

    def strikes(self) -> bool:
        """Whether it happens in this pass."""
        if self.left <= 0 or self._chance.randrange(100) >= self.percent:
            return False
        self.left -= 1
        log.warning("failpoint %s strikes", self.name)
        return True

    def act(self) -> None:
        """Dies or raises; a delay is the caller's to make."""
        if self.error is not None:
            raise self.error(f"failpoint {self.name} was told to fail")
        if not self.sleep_ms:
            os.kill(os.getpid(), signal.SIGKILL)


_armed: Mapping[str, Failpoint] = MappingProxyType({})


def parse(text: str) -> Mapping[str, Failpoint]:
    """The failpoints that a setting names. Raises ValueError for what has another form."""
    errors = {each.kind.value: each for each in _ERRORS}
    points = {}
    for part in filter(None, text.split(",")):
        match = _FORM.fullmatch(part)
        if match is None or (match[4] and match[4] not in errors):
            raise ValueError(f"AIOPS_FAILPOINTS has {part!r}; write name=panic, name=sleep:MS or name=error:KIND")
        points[match[1]] = Failpoint(
            match[1],
            sleep_ms=int(match[3] or 0),
            error=errors.get(match[4] or ""),
            percent=int(match[5] or 100),
            left=int(match[6] or 1_000_000_000),
        )
    return points


def arm(points: Mapping[str, Failpoint]) -> None:
    """Arms these, and no others, for the life of the process. Called once, where a service is wired."""
    global _armed  # noqa: PLW0603 - a place must be cheap and need nothing passed to it
    _armed = MappingProxyType(dict(points))
    if points:
        log.warning("failpoints are armed: %s", ", ".join(points))


async def failpoint(name: str) -> None:
    """A place in a coroutine."""
    point = _armed.get(name)
    if point is not None and point.strikes():
        if point.sleep_ms:
            await asyncio.sleep(point.sleep_ms / 1000)
        else:
            point.act()


def failpoint_sync(name: str) -> None:
    """A place in a function or a thread; a delay blocks it."""
    point = _armed.get(name)
    if point is not None and point.strikes():
        if point.sleep_ms:
            time.sleep(point.sleep_ms / 1000)
        else:
            point.act()
