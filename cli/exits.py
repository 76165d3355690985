"""How a command ends: exit codes that scripts can rely on, and the error that carries one."""

from dataclasses import dataclass, field
from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_REACHABLE = 3
    REFUSED = 4
    NOT_FOUND = 5
    CONFLICT = 6


@dataclass
class CliError(Exception):
    """What happened, why as far as it is known, and what to do next."""

    what: str
    code: Exit = Exit.FAILED
    why: tuple[str, ...] = field(default_factory=tuple)
    next_step: str = ""

    def lines(self) -> list[str]:
        """The error as it is printed."""
        steps = [f"  next: {self.next_step}"] if self.next_step else []
        return [f"error: {self.what}", *(f"  {reason}" for reason in self.why), *steps]
