"""GPUs through the real NVML wrapper, over a library that fails and hangs as told."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiops.nodes.v1 import node_pb2
from aiops.nodes.v1 import node_session_service_pb2 as pb

from tests.fakes.controller import FakeController
from tests.fakes.nvml.build import build_nvml
from tests.fixtures.node_agent import AgentProcess

GPU_IS_LOST, DRIVER_NOT_LOADED = 15, 9
Workload = Callable[..., pb.WorkloadSpec]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a libnvidia-ml.so.1 of our own."""
    return build_nvml(tmp_path_factory.mktemp("nvml"))


@dataclass(frozen=True)
class FakeGpus:
    """The two GPUs of the stand-in."""

    script: Path

    def behave(self, lines: str) -> None:
        """Says from now on what they do; nothing means they work."""
        self.script.write_text(lines)


@pytest.fixture
def gpus(tmp_path: Path, library: Path, agent: AgentProcess) -> FakeGpus:
    """GPUs that work, on the agent's machine."""
    fake = FakeGpus(tmp_path / "nvml.txt")
    fake.behave("")
    agent.environment |= {"LD_LIBRARY_PATH": str(library), "FAKE_NVML": str(fake.script)}
    return fake


def latest(controller: FakeController) -> list[node_pb2.GpuDevice]:
    """The GPUs of the last heartbeat."""
    beats = [each.heartbeat for each in controller.received if each.WhichOneof("message") == "heartbeat"]
    return list(beats[-1].metrics.gpu_devices) if beats else []


async def test_every_gpu_is_listed_with_its_gauges(
    agent: AgentProcess, controller: FakeController, gpus: FakeGpus
) -> None:
    await agent.start()
    await controller.until(lambda it: it.hellos)
    inventory = controller.hellos[0].inventory
    assert (inventory.driver_version, inventory.gpu_error) == ("555.42.06", "")
    assert list(inventory.gpu_devices) == [
        node_pb2.GpuDevice(
            device_id=str(index),
            model=f"NVIDIA Stand-in {index}",
            memory_total=24576,
            memory_free=20000,
            utilization=37,
            temperature=61,
            uuid=f"GPU-0000-000{index}",
        )
        for index in range(2)
    ]
    gpus.behave("free 1 123\n")
    await controller.until(lambda it: [each.memory_free for each in latest(it)] == [20000, 123])


async def test_a_gpu_that_fails_is_listed_with_its_error_beside_the_others(
    agent: AgentProcess, controller: FakeController, gpus: FakeGpus
) -> None:
    await agent.start()
    await controller.until(lambda it: len(latest(it)) == 2)
    gpus.behave(f"fail 1 {GPU_IS_LOST}\n")
    await controller.until(lambda it: latest(it)[1].error == "GPU is lost")
    well, lost = latest(controller)
    assert (well.error, well.memory_free) == ("", 20000)
    assert (lost.uuid, lost.memory_free) == ("GPU-0000-0001", 0)
    gpus.behave("")
    await controller.until(lambda it: not latest(it)[1].error)


async def test_a_gpu_that_hangs_delays_nothing_and_is_read_again_when_it_answers(
    agent: AgentProcess, controller: FakeController, gpus: FakeGpus, workload: Workload
) -> None:
    await agent.start()
    await controller.until(lambda it: len(latest(it)) == 2)
    gpus.behave("hang 0 1\n")
    await controller.until(lambda it: "did not answer" in latest(it)[0].error)
    controller.want(workload())
    await controller.until_status("dep-1", "running")
    assert latest(controller)[1].error == ""
    assert len(controller.hellos) == 1
    gpus.behave("")
    await controller.until(lambda it: not latest(it)[0].error)
    gpus.behave("hang 0 1\nhang 1 1\n")
    await controller.until(lambda it: all(each.error for each in latest(it)))
    started = time.monotonic()
    assert await agent.end() == 0
    assert time.monotonic() - started < 5


async def test_the_slices_of_a_card_are_listed_behind_it_and_lost_with_it(
    agent: AgentProcess, controller: FakeController, gpus: FakeGpus
) -> None:
    gpus.behave("mig 0 2\nmode 1 3\n")
    await agent.start()
    await controller.until(lambda it: len(latest(it)) == 4)
    card, first, second, alone = latest(controller)
    assert (card.device_id, card.mig, card.mig_profile) == ("0", True, "")
    assert [(each.device_id, each.uuid) for each in (first, second)] == [
        ("0:0", "MIG-0000-0000-0"),
        ("0:2", "MIG-0000-0000-2"),
    ]
    assert (first.parent_device_id, first.mig_profile) == ("0", "1g.5gb")
    assert (first.memory_total, first.memory_free, first.mig) == (4864, 4800, False)
    assert (alone.device_id, alone.exclusive, alone.mps, alone.mig) == ("1", True, False, False)
    gpus.behave(f"mig 0 2\nfail 0 {GPU_IS_LOST}\n")
    await controller.until(lambda it: [each.error for each in latest(it)] == ["GPU is lost"] * 3 + [""])
    gpus.behave("")
    await controller.until(lambda it: [each.mig for each in latest(it)] == [False, False])


async def test_what_an_engine_has_of_a_card_is_told_and_nothing_of_what_others_have(
    agent: AgentProcess, controller: FakeController, gpus: FakeGpus, workload: Workload
) -> None:
    gpus.behave("pid 1 1\nused 1 3000\n")
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.want(workload())
    running = await controller.until_status("dep-1", "running")

    def held() -> list[int]:
        beats = [each.heartbeat for each in controller.received if each.WhichOneof("message") == "heartbeat"]
        return [each.gpu_memory_mb for beat in beats for each in beat.containers if each.status == "running"]

    await controller.until(lambda _: held())
    assert set(held()) == {0}
    gpus.behave(f"pid 0 {running.container_id}\nused 0 5000\n")
    await controller.until(lambda _: held()[-1] == 5000)


async def test_the_multi_process_service_is_found_by_its_control_pipe(
    agent: AgentProcess, controller: FakeController, gpus: FakeGpus, tmp_path: Path
) -> None:
    (tmp_path / "mps").mkdir()
    agent.environment |= {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "mps")}
    await agent.start()
    await controller.until(lambda it: [each.mps for each in latest(it)] == [False, False])
    (tmp_path / "mps" / "control").touch()
    await controller.until(lambda it: [each.mps for each in latest(it)] == [True, True])


async def test_a_driver_that_is_not_loaded_is_told_and_found_when_it_is(
    agent: AgentProcess, controller: FakeController, gpus: FakeGpus
) -> None:
    gpus.behave(f"init 0 {DRIVER_NOT_LOADED}\n")
    await agent.start()
    await controller.until(lambda it: it.hellos)
    inventory = controller.hellos[0].inventory
    assert (list(inventory.gpu_devices), inventory.gpu_error) == ([], "Driver Not Loaded")
    gpus.behave("")
    await controller.until(lambda it: len(latest(it)) == 2)


async def test_a_machine_without_nvml_is_a_cpu_node(agent: AgentProcess, controller: FakeController) -> None:
    await agent.start()
    await controller.until(lambda it: it.hellos)
    inventory = controller.hellos[0].inventory
    assert (list(inventory.gpu_devices), inventory.gpu_error, inventory.driver_version) == ([], "", "")
