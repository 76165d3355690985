"""LoRA adapters of running deployments: wanted, told to the node, routed under their own names, and protected."""

import pytest
from aiops.deployments.v1 import deployment_pb2
from aiops.deployments.v1 import deployment_service_pb2 as pb
from aiops.models.v1 import model_service_pb2
from aiops.types.v1 import engine_pb2

from controller.deployments.workload import AdapterReport, EngineOptions, WorkloadState
from controller.nodes.model import NodeId
from tests.controller.deployments.test_replicas import RUNNING, watching
from tests.fakes.model_files import CONFIG, tiny_adapter, tiny_model
from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, STRANGER, Rooms

OPTIONS = engine_pb2.EngineOptions(tool_parser="hermes", max_adapters=1, extra={"dtype": "float32"})


@pytest.fixture
async def deployment(rooms: Rooms) -> deployment_pb2.Deployment:
    """A deployment with room for one adapter, of which there are two in the registry."""
    await rooms.join("node-1", engines=("vllm",))
    await rooms.import_model("tiny")
    await rooms.import_model("pirate", tiny_adapter())
    await rooms.import_model("poet", {**tiny_adapter(), "more.txt": b"x"})
    return await rooms.deploy("tiny", engine_options=OPTIONS)


async def load(rooms: Rooms, deployment_id: str, model: str) -> deployment_pb2.Deployment:
    request = pb.LoadAdapterRequest(deployment_id=deployment_id, model_id=model)
    return (await rooms.deployments.LoadAdapter(request, metadata=EDITOR)).deployment


async def unload(rooms: Rooms, deployment_id: str, model: str) -> deployment_pb2.Deployment:
    request = pb.UnloadAdapterRequest(deployment_id=deployment_id, model_id=model)
    return (await rooms.deployments.UnloadAdapter(request, metadata=EDITOR)).deployment


async def test_the_node_is_told_the_options_and_the_adapters_with_their_files(
    rooms: Rooms, deployment: deployment_pb2.Deployment
) -> None:
    assert deployment.engine_options == OPTIONS
    node_id = NodeId(deployment.node_id)
    before = await rooms.workloads.desired(node_id, None)
    loading = await load(rooms, deployment.deployment_id, "pirate")
    assert [(each.name, each.state) for each in loading.adapters] == [("pirate", deployment_pb2.Adapter.loading)]
    change = await rooms.workloads.desired(node_id, before.revision)
    (workload,) = change.workloads
    assert workload.options == EngineOptions("hermes", 1, {"dtype": "float32"})
    (adapter,) = workload.adapters
    assert {file.path for file in adapter.files} == set(tiny_adapter())
    assert all(file.object_path.startswith("blobs/") for file in adapter.files)
    again = await load(rooms, deployment.deployment_id, "pirate")
    assert again == loading
    await unload(rooms, deployment.deployment_id, "pirate")
    (workload,) = (await rooms.workloads.desired(node_id, change.revision)).workloads
    assert workload.adapters == ()


async def test_a_plan_counts_the_adapters_that_it_is_for(rooms: Rooms) -> None:
    await rooms.join("node-1", engines=("vllm",), ram_total=64_000, ram_free=60_000)
    await rooms.import_model("tiny")
    await rooms.import_model("pirate", tiny_adapter())

    async def planned(*adapters: str) -> int:
        request = pb.PlanDeploymentRequest(model_id="tiny", adapters=adapters, engine_options=OPTIONS)
        return (await rooms.deployments.PlanDeployment(request, metadata=EDITOR)).placement.memory_mb

    assert 0 < await planned() <= await planned("pirate")
    unknown = pb.PlanDeploymentRequest(model_id="tiny", adapters=["nobody"])
    assert (await refusal(rooms.deployments.PlanDeployment(unknown, metadata=EDITOR))).reason == "MODEL_NOT_FOUND"


async def test_an_adapter_is_a_model_of_its_own_name_while_its_engine_has_it(
    rooms: Rooms, deployment: deployment_pb2.Deployment
) -> None:
    await load(rooms, deployment.deployment_id, "pirate")
    async with watching(rooms) as feed:
        assert await feed.next() == []
        await rooms.report(deployment, **RUNNING)
        assert [each.model_name for each in await feed.next()] == ["tiny"]
        failed = await rooms.report(deployment, **RUNNING, adapters=(AdapterReport("pirate", False, "too large"),))
        assert (failed.adapters[0].state, failed.adapters[0].error) == (deployment_pb2.Adapter.failed, "too large")
        loaded = await rooms.report(deployment, **RUNNING, adapters=(AdapterReport("pirate", True),))
        assert loaded.adapters[0].state == deployment_pb2.Adapter.loaded
        base, adapter = await feed.next()
        assert (adapter.model_name, adapter.model_id) == ("pirate", loaded.adapters[0].model_id)
        assert (adapter.instance_id, adapter.port, adapter.epoch) == (base.instance_id, base.port, base.epoch)
        # The route goes first, whatever the node has done by then; a restarted engine has no adapters either.
        await unload(rooms, deployment.deployment_id, loaded.adapters[0].model_id)
        assert [each.model_name for each in await feed.next()] == ["tiny"]


async def test_a_restarted_engine_has_no_adapters_until_its_node_says_so(
    rooms: Rooms, deployment: deployment_pb2.Deployment
) -> None:
    await load(rooms, deployment.deployment_id, "pirate")
    await rooms.report(deployment, **RUNNING, adapters=(AdapterReport("pirate", True),))
    restarting = await rooms.report(deployment, state=WorkloadState.STARTING, event="died")
    assert restarting.adapters[0].state == deployment_pb2.Adapter.loading


async def test_what_cannot_be_an_adapter_is_refused(rooms: Rooms, deployment: deployment_pb2.Deployment) -> None:
    async def told(model: str, deployment_id: str = deployment.deployment_id) -> str:
        request = pb.LoadAdapterRequest(deployment_id=deployment_id, model_id=model)
        return (await refusal(rooms.deployments.LoadAdapter(request, metadata=EDITOR))).reason

    assert await told("tiny") == "NOT_AN_ADAPTER"
    assert await told("nobody") == "MODEL_NOT_FOUND"
    assert await told("pirate", "dep-nobody") == "DEPLOYMENT_NOT_FOUND"
    await load(rooms, deployment.deployment_id, "pirate")
    assert await told("poet") == "ADAPTERS_UNAVAILABLE"
    other = await refusal(
        rooms.deployments.LoadAdapter(
            pb.LoadAdapterRequest(deployment_id=deployment.deployment_id, model_id="pirate"), metadata=STRANGER
        )
    )
    assert other.reason == "DEPLOYMENT_NOT_FOUND"
    await rooms.stop(deployment.deployment_id)
    assert await told("poet") == "DEPLOYMENT_STOPPED"
    plain = await rooms.deploy("tiny")
    assert await told("pirate", plain.deployment_id) == "ADAPTERS_UNAVAILABLE"


async def test_an_adapter_in_use_is_not_deleted(rooms: Rooms, deployment: deployment_pb2.Deployment) -> None:
    await load(rooms, deployment.deployment_id, "pirate")
    request = model_service_pb2.DeleteModelRequest(model_id="pirate")
    error = await refusal(rooms.models.DeleteModel(request, metadata=EDITOR))
    assert (error.reason, deployment.deployment_id in error.message) == ("MODEL_IN_USE", True)
    await unload(rooms, deployment.deployment_id, "pirate")
    await rooms.models.DeleteModel(request, metadata=EDITOR)


async def test_a_shorter_context_needs_less_memory(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.import_model("long", tiny_model(config={**CONFIG, "max_position_embeddings": 1_000_000}))
    requests = [pb.PlanDeploymentRequest(model_id="long", context_tokens=context) for context in (1_000_000, 1_000)]
    plans = [await rooms.deployments.PlanDeployment(request, metadata=EDITOR) for request in requests]
    needed = [plan.placement.memory_mb for plan in plans]
    assert needed[0] > needed[1] + 100 > 100
