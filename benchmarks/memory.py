"""Whether the memory of a side stays as it is under a steady load."""

import asyncio
import statistics
from collections.abc import Mapping

from benchmarks.open_loop import offer
from benchmarks.sides import Side

LOOK_S = 0.5
# Pools and caches fill up at first; what is compared are the same shares of the time after that and at its end.
WARM, SHARE = 0.2, 0.1


async def growth_mb(side: Side, rate: int, seconds: float, body: Mapping[str, object]) -> float:
    """By how many megabytes it grows while so many requests a second are answered for so long."""
    load = asyncio.create_task(
        asyncio.to_thread(offer, side.url, rate=rate, seconds=seconds, headers=side.headers, body=body)
    )
    seen = list[float]()
    while not load.done():
        seen.append(side.memory_mb())
        await asyncio.wait([load], timeout=LOOK_S)
    offered = await load
    count = max(1, int(len(seen) * SHARE))
    start = int(len(seen) * WARM)
    first, last = statistics.median(seen[start : start + count]), statistics.median(seen[-count:])
    print(
        f"{offered.requests:,} requests in {seconds / 60:.1f} minutes, p99 {offered.p99_ms:.2f} ms: "
        f"{first:.1f} MB at first, {last:.1f} MB in the end, {max(seen):.1f} MB at most"
    )
    return last - first
