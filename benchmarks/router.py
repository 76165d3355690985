"""The router against LiteLLM's proxy, with tokens, quotas and usage on for both, in one run on one machine.

`python -m benchmarks.router [--seconds N] [--rounds N] [--minutes N] [--models N]`. The upstream is constant, so what
is left is what the routers cost. Ours is the product's: Envoy as the real gateway service configures it, with usage
told to a broker; for the time that a rule takes to be live it is the whole platform. Each round asks every side, and
medians are taken, because machines are shared. Last line: ratio added_p50_ms added_p99_ms chunk_added_p50_ms
long_prompt_rps memory_growth_mb cpu_ratio rule_live_p99_s.
"""

import argparse
import asyncio
import json
import os
import statistics
from collections.abc import Callable, Iterable

from benchmarks.load import generate
from benchmarks.memory import growth_mb
from benchmarks.open_loop import Offered, offer
from benchmarks.rules import rule_live_p99_s
from benchmarks.sides import Side, Sides, running_sides
from benchmarks.streams import delays_ms
from benchmarks.upstream import MODEL

CONCURRENT = 32
RATE = 1_000
# LiteLLM bears no more on a small machine.
PEERS_RATE = 20
STREAMS = 5
LONG_PROMPT_BYTES = 400_000
BODY: dict[str, object] = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}


async def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=0.5, help="how long to watch the memory")
    parser.add_argument("--models", type=int, default=2_000, help="models while rules are changed")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    figures: dict[str, float] = {}
    async with running_sides() as sides:
        figures |= await saturated(sides, options.seconds, options.rounds)
        figures |= await at_a_rate(sides, options.seconds, options.rounds)
        figures |= await streamed(sides, options.rounds)
        figures |= await long_prompts(sides, options.seconds)
        figures["memory_growth_mb"] = await growth_mb(sides.ours, RATE, options.minutes * 60, BODY)
    figures["rule_live_p99_s"] = await rule_live_p99_s(options.models)
    names = ["ratio", "added_p50_ms", "added_p99_ms", "chunk_added_p50_ms", "long_prompt_rps", "memory_growth_mb"]
    print(json.dumps({name: round(figures[name], 3) for name in [*names, "cpu_ratio", "rule_live_p99_s"]}))


async def saturated(sides: Sides, seconds: int, rounds: int) -> dict[str, float]:
    """Requests per second as fast as 32 connections can, and processor time per 1,000 of them."""
    rates, costs = dict[str, list[float]](), dict[str, list[float]]()
    for number in range(-1, rounds):
        for side in (sides.direct, sides.ours, sides.peer):
            before = side.cpu_s()
            load = await asyncio.to_thread(
                generate, side.url, connections=CONCURRENT, seconds=seconds if number >= 0 else 2,
                headers=_json(side), body=BODY,
            )  # fmt: skip
            if side is sides.ours:
                await sides.usage_told()
            cost = (side.cpu_s() - before) / max(load.requests, 1) * 1000
            if number < 0:
                continue
            rates.setdefault(side.name, []).append(load.rps)
            costs.setdefault(side.name, []).append(cost)
            print(
                f"round {number + 1}  {side.name:8} {load.rps:9.0f} req/s  p50 {load.p50_ms:8.3f} ms  "
                f"p99 {load.p99_ms:8.3f} ms  {cost:7.3f} CPU s per 1,000 requests",
                flush=True,
            )
    ratio = statistics.median(rates["aiops"]) / statistics.median(rates["litellm"])
    cpu_ratio = statistics.median(costs["litellm"]) / statistics.median(costs["aiops"])
    print(f"at {CONCURRENT} connections {ratio:.0f} times as many, each for 1/{cpu_ratio:.0f} of the processor time")
    return {"ratio": ratio, "cpu_ratio": cpu_ratio}


async def at_a_rate(sides: Sides, seconds: int, rounds: int) -> dict[str, float]:
    """Milliseconds that a request takes longer than without the router, at a fixed rate."""
    seen = dict[str, list[Offered]]()
    for number in range(1, rounds + 1):
        for side, rate in ((sides.direct, RATE), (sides.ours, RATE), (sides.peer, PEERS_RATE)):
            offered = await asyncio.to_thread(
                offer, side.url, rate=rate, seconds=seconds, headers=side.headers, body=BODY
            )
            seen.setdefault(side.name, []).append(offered)
            print(
                f"round {number}  {side.name:8} {rate:5} req/s offered  p50 {offered.p50_ms:8.3f} ms"
                f"  p99 {offered.p99_ms:8.3f} ms",
                flush=True,
            )

    def median(side: Side, figure: Callable[[Offered], float]) -> float:
        return statistics.median(figure(each) for each in seen[side.name])

    added = {
        f"added_{name}_ms": median(sides.ours, figure) - median(sides.direct, figure)
        for name, figure in (("p50", lambda each: each.p50_ms), ("p99", lambda each: each.p99_ms))
    }
    peers = median(sides.peer, lambda each: each.p50_ms) - median(sides.direct, lambda each: each.p50_ms)
    print(f"added {added}, by LiteLLM's proxy at {PEERS_RATE} req/s p50 {peers:.1f} ms")
    return added


async def streamed(sides: Sides, rounds: int) -> dict[str, float]:
    """Milliseconds that a chunk of a stream comes later than without the router."""
    seen = dict[str, list[float]]()
    for _ in range(rounds):
        for side in (sides.direct, sides.ours, sides.peer):
            seen.setdefault(side.name, []).extend(
                await asyncio.to_thread(delays_ms, side.url, streams=STREAMS, headers=side.headers, body=BODY)
            )
    p50 = {name: statistics.median(delays) for name, delays in seen.items()}
    added = p50["aiops"] - p50["direct"]
    print(f"a chunk, p50: added {added:.3f} ms, by LiteLLM's proxy {p50['litellm'] - p50['direct']:.3f} ms")
    return {"chunk_added_p50_ms": added}


async def long_prompts(sides: Sides, seconds: int) -> dict[str, float]:
    """Requests per second with prompts of 100,000 tokens."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "".join(_words(LONG_PROMPT_BYTES))}]}
    rates = {}
    for side in (sides.direct, sides.ours, sides.peer):
        load = await asyncio.to_thread(
            generate, side.url, connections=CONCURRENT, seconds=seconds, headers=_json(side), body=body
        )
        rates[side.name] = load.rps
        print(f"{LONG_PROMPT_BYTES:,} bytes  {side.name:8} {load.rps:9.0f} req/s", flush=True)
    return {"long_prompt_rps": rates["aiops"]}


def _words(size: int) -> Iterable[str]:
    for number in range(size // 8):
        yield f"{number:07} "


def _json(side: Side) -> dict[str, str]:
    return {**side.headers, "content-type": "application/json"}


if __name__ == "__main__":
    asyncio.run(main())
