"""What an engine was seen to need decides where the next one of its kind fits."""

from dataclasses import replace

import pytest
from aiops.deployments.v1 import deployment_service_pb2 as pb

from controller.deployments.workload import WorkloadState
from controller.nodes.model import Container
from controller.placement.need import TRUSTED_SAMPLES
from tests.fixtures.registry import EDITOR, Rooms, gpu


async def planned_mb(rooms: Rooms, max_concurrency: int = 0) -> int:
    request = pb.PlanDeploymentRequest(model_id="tiny", max_concurrency=max_concurrency)
    return (await rooms.deployments.PlanDeployment(request, metadata=EDITOR)).placement.memory_mb


async def test_the_most_that_an_engine_held_is_what_the_next_one_needs(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    estimate = await planned_mb(rooms)
    deployment = await rooms.report(await rooms.deploy(), state=WorkloadState.RUNNING, engine="transformers", port=9000)
    seen = Container("c-1", workload_id=deployment.deployment_id, status="running", memory_mb=2_000)
    rooms.workloads.measure([seen])
    await rooms.workloads.peaks.keep()
    assert await planned_mb(rooms) == 2_200
    # Another shape is another need.
    assert await planned_mb(rooms, max_concurrency=2) < estimate + 10


@pytest.mark.parametrize(("engine", "learns"), [("transformers", True), ("vllm", False)])
async def test_on_a_card_what_counts_is_what_the_engine_had_of_it_unless_it_takes_all_it_is_given(
    rooms: Rooms, engine: str, learns: bool
) -> None:
    await rooms.join("node-1", gpus=(gpu("0"),), engines=(engine,))
    await rooms.import_model("tiny")
    estimate = await planned_mb(rooms)
    deployment = await rooms.report(await rooms.deploy(), state=WorkloadState.RUNNING, engine=engine, port=9000)
    measured = 10_000
    seen = Container("c-1", workload_id=deployment.deployment_id, status="running", memory_mb=15_000)
    rooms.workloads.measure([seen])
    await rooms.workloads.peaks.keep()
    assert await planned_mb(rooms) == estimate, "its RAM says nothing of the card"
    rooms.workloads.measure([replace(seen, gpu_memory_mb=measured)])
    await rooms.workloads.peaks.keep()
    assert await planned_mb(rooms) == (measured * 11 // 10 if learns else estimate)


async def test_less_than_estimated_counts_once_it_was_seen_for_long(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    estimate = await planned_mb(rooms)
    deployment = await rooms.report(await rooms.deploy(), state=WorkloadState.RUNNING, engine="transformers", port=9000)
    seen = Container("c-1", workload_id=deployment.deployment_id, status="running", memory_mb=400)
    rooms.workloads.measure([seen])
    await rooms.workloads.peaks.keep()
    assert await planned_mb(rooms) == estimate
    for _ in range(TRUSTED_SAMPLES):
        rooms.workloads.measure([seen])
    await rooms.workloads.peaks.keep()
    assert await planned_mb(rooms) == 440


async def test_an_engine_that_ran_out_of_memory_gets_more_the_next_time(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    deployment = await rooms.deploy()
    await rooms.report(
        deployment,
        state=WorkloadState.FAILED,
        engine="transformers",
        error="it ran out of memory",
        error_reason="OUT_OF_MEMORY",
    )
    assert abs(await planned_mb(rooms) - deployment.memory_allocated * 5 // 4) <= 2
