"""What the demonstration tells: each step with a tick and the real values, or a cross and why."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class DemoFailedError(Exception):
    """A step did not hold; the message says which and why."""


class Story:
    """Prints steps to standard output."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator["Step"]:
        """Announce a step, then tick it with its details, or cross it when it raises."""
        step = Step()
        self.say(f"  … {title}")
        began = time.monotonic()
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
