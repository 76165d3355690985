"""What is left on a node that is being emptied."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leaving:
    """A deployment that is still on the node.

    `status` is deploying, running, or ending. `pinned` ones were put there by hand and stay. `reason` says what it
    waits for.
    """

    deployment_id: str
    status: str
    pinned: bool
    reason: str


def is_empty(left: Sequence[Leaving]) -> bool:
    """Whether nothing is left but what was put there by hand."""
    return all(each.pinned for each in left)
