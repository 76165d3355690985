"""Which of a target's instances answers a request."""

from dataclasses import dataclass
from enum import Enum


class Affinity(Enum):
    """What makes requests go to one instance."""

    NONE = "none"
    SESSION = "session"
    PREFIX = "prefix"


@dataclass(frozen=True, slots=True)
class Balancing:
    """What is asked; 0 takes the default."""

    affinity: Affinity = Affinity.NONE
    prefix_bytes: int = 0
    overload_percent: int = 0
    by_load: bool = False
