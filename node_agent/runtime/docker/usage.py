"""What a container takes, from the Engine's readings."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from node_agent.runtime.model import Usage

_MIB = 1024 * 1024
_NS = 1_000_000_000


class Meter:
    """One container's readings; CPU is measured from one to the next."""

    def __init__(self) -> None:
        self.usage = Usage()
        self._busy_ns: int | None = None
        self._read_ns = 0

    def read(self, stats: Mapping[str, Any]) -> bool:
        """Takes a reading, as `GET /containers/{id}/stats` answers it; False for one that says nothing any more."""
        memory, busy = stats.get("memory_stats") or {}, (stats.get("cpu_stats") or {}).get("cpu_usage") or {}
        if "usage" not in memory or "total_usage" not in busy:
            return False
        now = _nanoseconds(stats["read"])
        share = 0.0
        if self._busy_ns is not None and now > self._read_ns:
            share = max(0, busy["total_usage"] - self._busy_ns) * 100 / (now - self._read_ns)
        self._busy_ns, self._read_ns = busy["total_usage"], now
        # Files that were read and can be dropped are no need; cgroup v1 and v2 name them differently.
        detail = memory.get("stats") or {}
        cached = detail.get("total_inactive_file", detail.get("inactive_file", 0))
        self.usage = Usage(max(0, memory["usage"] - cached) // _MIB, share)
        return True


def _nanoseconds(stamp: str) -> int:
    """An RFC 3339 time in UTC with up to nine digits of a second, since the epoch."""
    seconds = datetime.fromisoformat(f"{stamp[:19]}+00:00").timestamp()
    return int(seconds) * _NS + int(stamp[20:].rstrip("Z").ljust(9, "0")[:9] or 0)
