"""What the demonstration tells: each step with a tick and the real values, or a cross and why."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class DemoFailedError(Exception):
    """A step did not hold; the message says which and why."""


# A step that takes longer says what it waits for.
EXPLAIN_AFTER_S = 5.0


class Story:
    """Prints steps to standard output."""

    def __init__(self) -> None:
        self._began = self._step_began = time.monotonic()
        self._awaited = ""

    @contextmanager
    def step(self, title: str) -> Iterator["Step"]:
        """Announce a step, then tick it with its details, or cross it when it raises."""
        step = Step()
        self.say(f"  … {title}")
        self._step_began = began = time.monotonic()
        held = False
        try:
            yield step
            held = True
        finally:
            self.say(f"  {'✓' if held else '✗'} {title}  ({time.monotonic() - began:.1f} s)")
            for line in step.details:
                self.say(f"      {line}")

    def say(self, line: str) -> None:
        """Print a line."""
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def awaits(self, what: str) -> None:
        """Tell what a step waits for, once it has taken a while and whenever that is something else."""
        if what != self._awaited and time.monotonic() - self._step_began > EXPLAIN_AFTER_S:
            self._awaited = what
            self.say("\n".join(f"      waits: {line}" for line in what.splitlines()))

    @property
    def seconds(self) -> float:
        """How long the story has taken."""
        return time.monotonic() - self._began


class Step:
    """What a step found."""

    def __init__(self) -> None:
        self.details: list[str] = []

    def tell(self, *lines: str) -> None:
        """Add details below the tick."""
        self.details.extend(lines)


def expect(condition: object, complaint: str) -> None:
    """Raise DemoFailedError unless the condition holds."""
    if not condition:
        raise DemoFailedError(complaint)
