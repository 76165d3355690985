"""What a tunnel costs: the same engine through the gateway, dialled and behind its node's tunnel, in one run.

`python -m benchmarks.tunnel [--seconds N] [--rounds N] [--kills N]`. Both ways verify tokens and read the model from
the body; the tunnelled one adds the gateway's inner hop, mutual TLS and the node's own Envoy, all on this machine.
Rounds of the two alternate and the median of each is taken. Then each Envoy is killed a few times under a client that
asks again and again; what is told is the longest time from the kill until an answer. Last line: direct_rps,
tunnel_rps, added_p50_ms, node_back_s, gateway_back_s.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.load import Load, generate
from benchmarks.peer import constant_upstream
from stack.ports import free_port
from tests.fakes.engine_http import Engine
from tests.fixtures.edge import Edge, model_route, running_edge
from tests.fixtures.tunnels import TunnelledNode, envoys, running_tunnel, tunnelled

CONCURRENT = 32
WAYS = ("dialled", "tunnelled")


async def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="aiops-bench-") as scratch:
        home = Path(scratch)
        async with (
            constant_upstream() as upstream,
            running_edge(home, {"AIOPS_NODE_PORT": str(port)}) as edge,
            running_tunnel(home / "node", home / "pki", "node-1", f"127.0.0.1:{port}") as node,
        ):
            engine = Engine("one", upstream)
            node.lead_to(engine)
            dialled = model_route(engine, model="dialled")
            await edge.route(dialled, tunnelled("tunnelled", [node.target(engine)]))
            for model in WAYS:
                await edge.until_chat(200, model, seconds=20)
            figures = report(await asyncio.to_thread(measure, edge, options.seconds, options.rounds))
            figures["node_back_s"] = await longest(edge, lambda: kill_nodes(node), options.kills)
            figures["gateway_back_s"] = await longest(edge, edge.restart_envoy, options.kills)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def measure(edge: Edge, seconds: int, rounds: int) -> dict[tuple[str, int], list[Load]]:
    """The loads seen on each way at 1 and at 32 connections, round by round."""
    seen: dict[tuple[str, int], list[Load]] = {}
    headers = {**edge.bearer(), "content-type": "application/json"}
    url = f"{edge.url}/v1/chat/completions"
    for number in range(rounds + 1):
        for connections in (1, CONCURRENT):
            for way in WAYS:
                body = {"model": way, "messages": [{"role": "user", "content": "Say hello."}]}
                load = generate(
                    url, connections=connections, seconds=seconds if number else 1, headers=headers, body=body
                )
                if number:  # the first round only warms up
                    seen.setdefault((way, connections), []).append(load)
                    print(
                        f"round {number}  {way:9} {connections:3} connections  {load.rps:9.0f} req/s"
                        f"  p50 {load.p50_ms:8.3f} ms  p99 {load.p99_ms:8.3f} ms",
                        flush=True,
                    )
    return seen


def report(seen: dict[tuple[str, int], list[Load]]) -> dict[str, float]:
    """The medians."""

    def median(way: str, connections: int, figure: Callable[[Load], float]) -> float:
        return statistics.median(figure(load) for load in seen[way, connections])

    alone = {way: median(way, 1, lambda load: load.p50_ms) for way in WAYS}
    return {
        "direct_rps": median("dialled", CONCURRENT, lambda load: load.rps),
        "tunnel_rps": median("tunnelled", CONCURRENT, lambda load: load.rps),
        "added_p50_ms": alone["tunnelled"] - alone["dialled"],
    }


async def longest(edge: Edge, kill: Callable[[], Awaitable[None]], times: int) -> float:
    """The longest time from a kill until the tunnelled engine answers again."""
    spans = []
    for _ in range(times):
        began = time.monotonic()
        await kill()
        await edge.until(lambda: _answers(edge), seconds=30)
        spans.append(time.monotonic() - began)
        print(f"back after {spans[-1]:.2f} s", flush=True)
    return max(spans)


async def kill_nodes(node: TunnelledNode) -> None:
    """Kills the node's Envoy; whoever keeps it starts it again."""
    for process in envoys(node.home):
        os.kill(process, signal.SIGKILL)


async def _answers(edge: Edge) -> bool:
    try:
        return (await edge.chat("tunnelled")).status_code == 200
    except edge.connection_errors:
        return False


if __name__ == "__main__":
    asyncio.run(main())
