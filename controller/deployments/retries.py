"""What found no place of late, why, and when it is tried again."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

from mesh.clock import Clock
from mesh.loops import Backoff

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class _Refused:
    """How often in a row, when it is tried again, and what was said last."""

    times: int
    due: float
    why: str


class Retries(Generic[Key]):
    """What one loop remembers between its looks; a loop that begins anew tries everything at once."""

    def __init__(self, patience: Backoff, clock: Clock) -> None:
        self._patience, self._clock = patience, clock
        self._refused: dict[Key, _Refused] = {}

    def due(self, wanting: Collection[Key]) -> list[Key]:
        """Those of all that want a place whose time has come; what wants none any more is forgotten."""
        self.retain(wanting)
        return [each for each in wanting if not self.waits(each)]

    def retain(self, wanting: Collection[Key]) -> None:
        """What wants no place any more is forgotten."""
        self._refused = {each: refused for each, refused in self._refused.items() if each in wanting}

    def waits(self, key: Key) -> bool:
        """Whether it is too early to try it again."""
        refused = self._refused.get(key)
        return refused is not None and self._clock.monotonic() < refused.due

    def why(self, key: Key) -> str:
        """Why it was refused a place the last time; empty when it was not."""
        refused = self._refused.get(key)
        return refused.why if refused else ""

    def add(self, key: Key, why: str = "") -> None:
        """It was refused a place once more."""
        before = self._refused.get(key)
        times = before.times + 1 if before else 1
        self._refused[key] = _Refused(times, self._clock.monotonic() + self._patience.pause(times).total_seconds(), why)

    def remove(self, key: Key) -> None:
        """It has a place."""
        self._refused.pop(key, None)

    def forget(self) -> None:
        """The fleet has changed: everything may be tried at once."""
        self._refused.clear()
