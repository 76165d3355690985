"""I8 and I12: nothing grows beyond its caps, and every call ends in time."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.robustness.history import Operation
from tests.robustness.samples import Samples


@dataclass(frozen=True)
class Caps:
    """What one process may take, and how many connections the database may have: two pools of 16 and a look."""

    rss_mb: float = 350
    descriptors: int = 400
    threads: int = 80
    connections: int = 36


def within_caps(samples: Samples, caps: Caps) -> list[str]:
    """I8: no member took more than its share at any look."""
    found = set()
    for each in samples.members:
        for name in ("rss_mb", "descriptors", "threads"):
            if getattr(each, name) > getattr(caps, name):
                found.add(f"{each.member} had more than {getattr(caps, name)} {name}")
    most = max(samples.connections, default=0)
    if most > caps.connections:
        found.add(f"the database had {most} connections")
    return sorted(found)


def calls_end(operations: Sequence[Operation], deadline_s: float, slack_s: float = 2.0) -> list[str]:
    """I12: no call took longer than its deadline and a little."""
    late = [each for each in operations if each.client != "test" and each.ret - each.call > deadline_s + slack_s]
    return [f"{each.op} of {each.client} took {each.ret - each.call:.1f} s" for each in late]
