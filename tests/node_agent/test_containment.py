"""What a workload's container is asked to be, from its specification and the cards of the machine."""

from pathlib import Path

from node_agent.engines.engine import LaunchPlan, Probe
from node_agent.inventory.model import Gpu
from node_agent.workloads.containers import contain, devices_inside
from node_agent.workloads.model import Goal, WorkloadId, WorkloadKey, WorkloadSpec

HEALTH = Probe("GET", "http://0.0.0.0:8001/up")
PLAN = LaunchPlan(("serve",), {}, Path("/run"), HEALTH, HEALTH, 10.0, "/ask", ())


def spec(*devices: str) -> WorkloadSpec:
    key = WorkloadKey(WorkloadId("dep-1"), 0)
    return WorkloadSpec(key, 3, Goal.RUN, container_name="c", image="i", gpu_devices=devices, memory_limit_mb=1000)


def test_cards_and_slices_are_named_by_uuid_and_numbered_anew_inside() -> None:
    cards = {
        "1": Gpu("1", "card", 1, 1, uuid="GPU-1"),
        "0:3": Gpu("0:3", "slice", 1, 1, uuid="MIG-3"),
        "2": Gpu("2", "card", 1, 1),
    }
    box = contain(spec("1", "0:3", "2", "7"), PLAN, "10.0.0.1", (8001,), Path("/model"), Path("/run"), cards)
    assert box.gpus == ("GPU-1", "MIG-3", "2", "7")
    assert devices_inside(spec("1", "0:3", "2", "7")) == ("0", "1", "2", "3")
    # With a card, memory is not what was planned with.
    assert (box.memory_mb, box.ports, box.address) == (0, (8001,), "10.0.0.1")
    assert box.health_url == "http://127.0.0.1:8001/up"


def test_without_a_card_there_is_none_and_memory_has_a_limit() -> None:
    box = contain(spec(), PLAN, "10.0.0.1", (8001,), Path("/model"), Path("/run"), {})
    assert (box.gpus, box.memory_mb) == ((), 1250)
    assert box.labels == {"io.aiops.workload": "dep-1", "io.aiops.replica": "0", "io.aiops.epoch": "3"}
