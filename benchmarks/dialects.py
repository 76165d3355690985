"""What translating between dialects costs, in one run: `python -m benchmarks.dialects [--seconds N] [--rounds N]`.

The same constant upstream is asked directly, through the chat route, by clients of Anthropic's Messages, and as a
target that speaks Messages. Envoy's processor time is counted for each way. Rounds alternate, and the median of each is
taken, because the machine is shared. Last line: added milliseconds at one connection, and processor milliseconds of
Envoy for a thousand requests.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import psutil
from aiops.routing.v1 import routing_service_pb2 as routing

from benchmarks.load import Load, generate
from benchmarks.peer import constant_upstream
from benchmarks.upstream import MODEL
from tests.fixtures.edge import ORG, Edge, running_edge

LONG = "word " * 80_000
SHORT = "Say hello."


async def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aiops-bench-") as scratch:
        async with constant_upstream() as upstream, running_edge(Path(scratch)) as edge:
            await _serve(edge, upstream)
            headers = {name: str(value) for name, value in edge.bearer(exp=2**33).items()}
            ways = {
                "direct": (f"http://127.0.0.1:{upstream}/v1/chat/completions", MODEL),
                "chat": (f"{edge.url}/v1/chat/completions", MODEL),
                "outside": (f"{edge.url}/v1/chat/completions", "outside"),
                "from_messages": (f"{edge.url}/v1/messages", MODEL),
                "to_messages": (f"{edge.url}/v1/chat/completions", "claude"),
            }
            for text in (SHORT, LONG):
                seen = await asyncio.to_thread(_measure, ways, headers, text, edge, options)
                print(json.dumps({"body_bytes": len(text), **seen}))


def _measure(
    ways: dict[str, tuple[str, str]], headers: dict[str, str], text: str, edge: Edge, options: argparse.Namespace
) -> dict[str, Any]:
    assert edge.envoy is not None
    envoy = psutil.Process(edge.envoy.pid)
    alone: dict[str, list[Load]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, (url, model) in ways.items():
            body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": text}]}
            before = sum(envoy.cpu_times()[:2])
            load = generate(url, connections=1, seconds=options.seconds, headers=_json(headers), body=body)
            cpu[way].append((sum(envoy.cpu_times()[:2]) - before) * 1e6 / load.requests)
            alone[way].append(load)
    p50 = {way: statistics.median(load.p50_ms for load in loads) for way, loads in alone.items()}
    return {
        "added_p50_ms": {way: round(value - p50["direct"], 3) for way, value in p50.items() if way != "direct"},
        "envoy_cpu_ms_per_1000": {
            way: round(statistics.median(found)) for way, found in cpu.items() if way != "direct"
        },
    }


def _json(headers: dict[str, str]) -> dict[str, str]:
    return {**headers, "content-type": "application/json"}


async def _serve(edge: Edge, upstream: int) -> None:
    target = routing.Target(
        deployment_id="dep-1", instance_id="one", node_id="node-1", address="127.0.0.1", port=upstream,
        inference_path="/v1/chat/completions", weight=1,
    )  # fmt: skip
    policies = []
    for name, protocol in (("outside", routing.External.chat), ("claude", routing.External.messages)):
        external = routing.External(base_url=f"http://127.0.0.1:{upstream}/v1", protocol=protocol)
        reached = routing.PolicyTarget(name=name, weight=1, model=MODEL, external=external)
        policies.append(routing.PolicyRoute(route_id=name, org_id=ORG, names=[name], targets=[reached]))
        policies[-1].resilience.max_requests = 4096
        policies[-1].resilience.failure_threshold = 5
    await edge.route(routing.ModelRoute(org_id=ORG, model=MODEL, targets=[target]), policies=policies)
    for name in (MODEL, "outside", "claude"):
        await edge.until_chat(200, name, seconds=30)


if __name__ == "__main__":
    asyncio.run(main())
