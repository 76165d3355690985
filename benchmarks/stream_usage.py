"""What it costs to count streams whose clients do not ask for usage: `python -m benchmarks.stream_usage [--streams N]`.

The same stream is asked for by a client that wants usage, so that the edge leaves it alone, and by one that does not.
Printed: microseconds of Envoy's processor for each chunk, and the median delay of a chunk in milliseconds.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil

from benchmarks.peer import constant_upstream
from benchmarks.streams import delays_ms
from benchmarks.upstream import MODEL
from tests.fakes.engine_http import Engine
from tests.fixtures.edge import Edge, model_route, running_edge

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}
WAYS: Mapping[str, Mapping[str, object]] = {
    "asked": {**BODY, "stream_options": {"include_usage": True}},
    "not asked": BODY,
}


async def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=10, help="streams of each round and way")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aiops-bench-") as scratch:
        async with constant_upstream() as port, running_edge(Path(scratch)) as edge:
            await edge.route(model_route(Engine("one", port), model=MODEL))
            await edge.until_chat(200, MODEL, seconds=30)
            print(json.dumps(await asyncio.to_thread(_measure, edge, options.streams, options.rounds)))


def _measure(edge: Edge, streams: int, rounds: int) -> dict[str, dict[str, float]]:
    assert edge.envoy is not None
    envoy, headers = psutil.Process(edge.envoy.pid), edge.bearer(exp=2**33)
    url = f"{edge.url}/v1/chat/completions"
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    delays: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, body in WAYS.items():
            before = sum(envoy.cpu_times()[:2])
            found = delays_ms(url, streams=streams, headers=headers, body=body)
            spent[way].append((sum(envoy.cpu_times()[:2]) - before) * 1e6 / len(found))
            delays[way] += found
    return {
        way: {"cpu_us": round(statistics.median(spent[way]), 1), "p50_ms": round(statistics.median(delays[way]), 3)}
        for way in WAYS
    }


if __name__ == "__main__":
    asyncio.run(main())
