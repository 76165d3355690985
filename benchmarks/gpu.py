"""What the platform does on a machine with a graphics card: `python -m benchmarks.gpu [--engine transformers|vllm]`.

Three things, for real: the inventory through NVML; placement by live free memory while a foreign process, which the
platform knows nothing of, holds most of a card; and an engine on the card behind the whole platform, asked for a chat.
What was seen is written to docs/measured/gpu.md. The engine's program comes from AIOPS_ENGINE_TRANSFORMERS or
AIOPS_ENGINE_VLLM and must be one for CUDA. Without a card, a driver or such a program it says what is missing, ends
with 3 and writes nothing.
"""

import argparse
import asyncio
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.fleet_plan import LARGE, NOW
from controller.models.model import MIB, ModelId
from controller.nodes.devices import GpuDevice
from controller.nodes.model import Gauges, Node, NodeId, NodeStatus
from controller.placement.fleet import Fleet
from controller.placement.model import Candidate, Demand, Placement, Refusal
from controller.placement.plan import plan
from mesh.identity import OrgId, UserId
from node_agent.inventory.model import Gpu
from node_agent.inventory.nvml import Nvml
from tests.fixtures.platform import Platform, platform_in

ROOT = Path(__file__).resolve().parents[1]
MEASURED, DEMO = ROOT / "docs" / "measured" / "gpu.md", ROOT / "examples" / "demo-model"
DRIVER = "libcuda.so.1"
# The foreign process takes so much of what is free, and what is then asked for needs more than the rest.
FOREIGN_SHARE = 0.7
EXIT_MISSING = 3
# Takes so many bytes of card 0 through CUDA's driver, says so, and holds them until its input ends.
HOLDER = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        sys.exit(f"{name}: CUDA error {code}")
context, memory = ctypes.c_void_p(), ctypes.c_uint64()
call("cuInit", 0)
call("cuCtxCreate_v2", ctypes.byref(context), 0, 0)
call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(int(sys.argv[1])))
print("holding", flush=True)
sys.stdin.read()
"""


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    engine = parser.parse_args().engine
    setting = f"AIOPS_ENGINE_{engine.upper()}"
    gpus = asyncio.run(Nvml().read())
    usable = [gpu for gpu in gpus.devices if not gpu.error and not gpu.mig]
    if not usable:
        missing(f"no card can be read through NVML here: {gpus.error or 'there is none'}")
    print(*inventory(gpus.devices), sep="\n")
    try:
        ctypes.CDLL(DRIVER)
    except OSError as error:
        missing(f"CUDA's driver cannot be loaded: {error}")
    if not Path(os.environ.get(setting, "")).is_file():
        missing(f"{setting} names no program; set it to the engine's, installed for CUDA")
    lines = [
        "# On a machine with a graphics card",
        f"`python -m benchmarks.gpu --engine {engine}`, {datetime.now(UTC):%Y-%m-%d}, driver {gpus.driver_version}.",
        "## Inventory through NVML",
        *inventory(gpus.devices),
        "## Placement beside a foreign process",
        *foreign(usable[0]),
        f"## {engine} on the card, behind the whole platform",
        *served(engine),
    ]
    MEASURED.parent.mkdir(exist_ok=True)
    MEASURED.write_text("\n\n".join(lines) + "\n")
    print(f"written to {MEASURED}")


def missing(what: str) -> None:
    """Ends: nothing was measured."""
    print(what, file=sys.stderr)
    sys.exit(EXIT_MISSING)


def inventory(gpus: Sequence[Gpu]) -> list[str]:
    """A line for each device."""
    return [
        f"- GPU {gpu.device_id}: {gpu.model}, {gpu.memory_total:,} MB, {gpu.memory_free:,} MB free, "
        f"{gpu.temperature} °C, {gpu.uuid}" + (f", {gpu.error}" if gpu.error else "")
        for gpu in gpus
    ]


def foreign(gpu: Gpu) -> list[str]:
    """What a plan for a model that nearly fills the card says before, beside, and after a foreign process."""
    wish = Demand(ModelId("model"), "large", "vllm", "llm", gpu.memory_free * MIB // 2, replace(LARGE, context=1024))
    lines = [f"Before: {said(wish)}"]
    with holding(int(gpu.memory_free * FOREIGN_SHARE) * MIB):
        lines.append(f"Beside a process that holds {FOREIGN_SHARE:.0%} of what was free: {said(wish)}")
    return [*lines, f"After it ended: {said(wish)}"]


def said(wish: Demand) -> str:
    """What the planner says of the cards as NVML reads them now."""
    cards = tuple(
        GpuDevice(each.device_id, memory_total=each.memory_total, memory_free=each.memory_free)
        for each in asyncio.run(Nvml().read()).devices
    )
    node = Node(NodeId("node"), "here", OrgId("o"), UserId("u"), NOW, NOW, gauges=Gauges(gpu_devices=cards))
    outcome = plan(wish, Fleet([Candidate(replace(node, status=NodeStatus.ONLINE, engines=("vllm",)))]))
    return spoken(outcome)


def spoken(outcome: Placement | Refusal) -> str:
    """The plan in words."""
    if isinstance(outcome, Placement):
        return f"placed on GPU {', '.join(outcome.gpu_devices)}; {outcome.explanation}."
    return "refused; " + "; ".join(each.reason for each in outcome.refusals) + "."


@contextmanager
def holding(size_bytes: int) -> Iterator[None]:
    """A process that holds so much of card 0."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(size_bytes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "holding\n":
            missing("the foreign process got no memory of the card")
        yield


def served(engine: str) -> list[str]:
    """A deployment of the demo model on the card, and its answer."""
    with tempfile.TemporaryDirectory(prefix="aiops-gpu-") as scratch:
        platform = platform_in(Path(scratch))
        platform.start(1)
        try:
            return asked(platform, engine)
        finally:
            platform.stop()


def asked(platform: Platform, engine: str) -> list[str]:
    """What the running platform says of its node, of the deployment, and in the chat."""
    platform.aiops_json("models", "import", str(DEMO), "--name", "demo")
    deployed = platform.aiops_json("deploy", "demo", "--wait")
    node = platform.aiops_json("nodes", "ls")[0]
    chat = platform.aiops("chat", "demo", "Say something.")
    facts: dict[str, Any] = {
        "node": [
            {name: card.get(name) for name in ("deviceId", "memoryTotal", "memoryFree")} for card in node["gpuDevices"]
        ],
        "deployment": {name: deployed.get(name) for name in ("status", "gpuDevice", "memoryAllocated", "engine")},
        "chat": chat.stdout.strip() or chat.stderr.strip(),
    }
    ended = "answered" if chat.returncode == 0 else "did not answer"
    return [f"{engine} {ended}.", "```json\n" + json.dumps(facts, indent=1) + "\n```"]


if __name__ == "__main__":
    main()
