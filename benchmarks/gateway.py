"""The chat route against a constant upstream: direct, through the gateway, and through LiteLLM's proxy, in one run.

`python -m benchmarks.gateway [--seconds N] [--rounds N]`. The gateway is the product's: Envoy as the real gateway
service configures it, with tokens verified, the model read from the body and routed per organisation. LiteLLM's proxy
runs as it starts by default (one worker), with a master key. Rounds of the three alternate, and the median of each is
taken, because the machine is shared. Last line: gateway_rps, litellm_rps, ratio, added_p50_ms.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from aiops.routing.v1 import routing_service_pb2 as routing

from benchmarks.load import Load, generate
from benchmarks.peer import MASTER_KEY, constant_upstream, litellm
from benchmarks.upstream import MODEL
from tests.fixtures.edge import ORG, running_edge

BODY: dict[str, object] = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}
CONCURRENT = 32


async def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aiops-bench-") as scratch:
        home = Path(scratch)
        async with constant_upstream() as upstream, running_edge(home) as edge, litellm(home, upstream) as peer:
            target = routing.Target(
                deployment_id="dep-1", instance_id="one", node_id="node-1", address="127.0.0.1", port=upstream,
                inference_path="/v1/chat/completions", weight=1,
            )  # fmt: skip
            await edge.route(routing.ModelRoute(org_id=ORG, model=MODEL, targets=[target]))
            await edge.until_chat(200, MODEL)
            ways = {
                "direct": (f"http://127.0.0.1:{upstream}/v1/chat/completions", {}),
                "gateway": (f"{edge.url}/v1/chat/completions", edge.bearer()),
                "litellm": (
                    f"http://127.0.0.1:{peer.port}/v1/chat/completions",
                    {"authorization": f"Bearer {MASTER_KEY}"},
                ),
            }
            report(await asyncio.to_thread(measure, ways, options.seconds, options.rounds))


def measure(
    ways: dict[str, tuple[str, dict[str, str]]], seconds: int, rounds: int
) -> dict[tuple[str, int], list[Load]]:
    """The loads seen on each way at 1 and at 32 connections, round by round."""
    seen: dict[tuple[str, int], list[Load]] = {}
    for way, (url, headers) in ways.items():
        generate(url, connections=4, seconds=2, headers=_json(headers), body=BODY)
        print(f"{way} is warm", flush=True)
    for number in range(1, rounds + 1):
        for connections in (1, CONCURRENT):
            for way, (url, headers) in ways.items():
                load = generate(url, connections=connections, seconds=seconds, headers=_json(headers), body=BODY)
                seen.setdefault((way, connections), []).append(load)
                print(
                    f"round {number}  {way:8} {connections:3} connections  {load.rps:9.0f} req/s"
                    f"  p50 {load.p50_ms:8.3f} ms  p99 {load.p99_ms:8.3f} ms",
                    flush=True,
                )
    return seen


def report(seen: dict[tuple[str, int], list[Load]]) -> None:
    """Prints the medians, and as the last line the figures."""

    def median(way: str, connections: int, figure: Callable[[Load], float]) -> float:
        return statistics.median(figure(load) for load in seen[way, connections])

    gateway = median("gateway", CONCURRENT, lambda load: load.rps)
    peer = median("litellm", CONCURRENT, lambda load: load.rps)
    added = median("gateway", 1, lambda load: load.p50_ms) - median("direct", 1, lambda load: load.p50_ms)
    litellm_added = median("litellm", 1, lambda load: load.p50_ms) - median("direct", 1, lambda load: load.p50_ms)
    print(
        f"gateway {gateway:.0f} req/s, LiteLLM {peer:.0f} req/s at {CONCURRENT} connections: {gateway / peer:.0f} times"
    )
    print(f"added at one connection, p50: gateway {added:.3f} ms, LiteLLM {litellm_added:.3f} ms")
    figures = {"gateway_rps": gateway, "litellm_rps": peer, "ratio": gateway / peer, "added_p50_ms": added}
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def _json(headers: dict[str, str]) -> dict[str, str]:
    return {**headers, "content-type": "application/json"}


if __name__ == "__main__":
    asyncio.run(main())
