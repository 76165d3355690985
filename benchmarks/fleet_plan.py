"""How long one plan takes over 10,000 nodes of 8 cards: `python -m benchmarks.fleet_plan`."""

import gc
import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from controller.models.model import MIB, Architecture, ModelId
from controller.nodes.devices import GpuDevice
from controller.nodes.model import Gauges, Node, NodeId, NodeStatus
from controller.placement.fleet import Fleet
from controller.placement.model import Candidate, Claim, Demand, Options
from controller.placement.plan import plan
from mesh.identity import OrgId, UserId

NODES, GPUS, ROUNDS = 10_000, 8, 40
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LARGE = Architecture(layers=80, kv_heads=8, head_dim=128, context=8192, dtype="bfloat16", heads=64)


def measure_plan() -> float:
    """Prints each kind of plan; answers milliseconds (p99) over all of them."""
    fleet = Fleet(candidates(random.Random(1)))  # noqa: S311 - the same fleet each time
    # As the controller does once it has read the fleet.
    gc.freeze()
    every, busy = list[float](), list[float]()
    for name, demand in demands().items():
        times = []
        for number in range(ROUNDS):
            asked = replace(demand, model_id=ModelId(f"model-{number}"))
            started, begun = time.perf_counter(), time.thread_time()
            outcome = plan(asked, fleet)
            busy.append((time.thread_time() - begun) * 1000)
            times.append((time.perf_counter() - started) * 1000)
        every += times
        p50, most = sorted(times)[len(times) // 2], max(times)
        print(f"plan {name}: {type(outcome).__name__}, p50 {p50:.1f} ms, most {most:.1f} ms")
    p99, p99_busy = (sorted(values)[int(len(values) * 0.99)] for values in (every, busy))
    print(
        f"plan over {NODES:,} nodes of {GPUS} cards: p99 {p99:.1f} ms, of which {p99_busy:.1f} ms are the processor's "
        f"(the rest waits for other programs), load {os.getloadavg()[0]:.1f}"
    )
    return round(p99, 1)


def demands() -> Mapping[str, Demand]:
    """What is asked: something that fits nearly everywhere, and several things that do not."""
    large = Demand(ModelId("model-0"), "large", "vllm", "llm", 30_000 * MIB, LARGE)
    return {
        "of a model that fits one card": large,
        "of a model over several cards": replace(large, weights_bytes=140_000 * MIB),
        "with labels": replace(large, options=Options(required_labels=(("zone", "a"),))),
        "with a port": replace(large, port=9_000),
        "that nothing fits": replace(large, weights_bytes=900_000 * MIB),
        "that evicts": replace(large, weights_bytes=52_000 * MIB, options=Options(gpu_count=1, priority=5)),
    }


def candidates(source: random.Random) -> Iterator[Candidate]:
    """Nodes as a busy fleet has them: cards in use to different degrees, deployments of many models."""
    for number in range(NODES):
        gpus = tuple(
            GpuDevice(str(index), memory_total=81_559, memory_free=source.randint(1_000, 65_000))
            for index in range(GPUS)
        )
        labels = {"host": f"h{number}", "zone": "abc"[number % 3]}
        gauges = Gauges(gpu_devices=gpus, ram_total=512_000, ram_free=400_000)
        node = Node(NodeId(f"node-{number:05}"), f"gpu-{number}", OrgId("o"), UserId("u"), NOW, NOW, gauges=gauges)
        held = tuple(claim(source, number, index) for index in range(source.randint(0, 6)))
        yield Candidate(replace(node, status=NodeStatus.ONLINE, engines=("vllm",), labels=labels), held)


def claim(source: random.Random, node: int, index: int) -> Claim:
    """What one deployment holds of one card, and uses already."""
    model, mb = ModelId(f"model-{source.randint(0, 300)}"), source.randint(1_000, 20_000)
    return Claim(f"dep-{node}-{index}", model, mb, (str(source.randrange(GPUS)),), settled_mb=mb)


if __name__ == "__main__":
    measure_plan()
