"""A model is placed on a node once for each request, and its node is told exactly what to run."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from aiops.deployments.v1 import deployment_pb2
from aiops.deployments.v1 import deployment_service_pb2 as pb

from controller.deployments.workload import Goal, WorkloadState
from controller.models.model import ModelId
from controller.nodes.model import NodeId
from mesh.identity import SYSTEM
from tests.fakes.model_files import CONFIG, safetensors, tiny_model
from tests.fixtures.iam import refusal
from tests.fixtures.registry import ADMIN, EDITOR, STRANGER, Rooms, gpu, person


async def test_a_deployment_is_placed_told_and_named(rooms: Rooms) -> None:
    node_id = await rooms.join("node-1")
    model = await rooms.import_model("tiny")
    deployment = await rooms.deploy(request_id="req-1")
    assert deployment.status == deployment_pb2.Deployment.deploying
    assert (deployment.node_id, deployment.model_id, deployment.epoch) == (node_id, model.model_id, 1)
    assert len(deployment.instance_id) == 8
    assert deployment.container_name == f"model-{model.model_id}-{deployment.instance_id}"
    assert deployment.endpoint == f"/models/tiny/{deployment.instance_id}/v1/inference"
    assert (deployment.owner.org_id, deployment.deployed_by) == ("org-a", "user-of-org-a")
    created, told = await rooms.events("system.deploymentCreated", "system.node.deployModel")
    assert (created["deploymentId"], created["key"], created["nodeId"]) == (*[deployment.deployment_id] * 2, node_id)
    assert (told["modelId"], told["key"], told["framework"]) == (model.model_id, node_id, "vllm")
    assert told["modelPath"] == model.minio_path
    assert told["containerConfig"]["memoryLimit"] == f"{deployment.memory_allocated}m"


async def test_the_node_is_given_everything_it_needs_and_only_what_changed_later(rooms: Rooms) -> None:
    node_id = await rooms.join("node-1")
    model = await rooms.import_model("tiny")
    with rooms.hints.watching_node(node_id) as wake:
        first = await rooms.deploy(port=9000, request_id="req-1")
        async with asyncio.timeout(1):
            await wake.wait(rooms.liveness.rules.lease)
    whole = await rooms.workloads.desired(node_id, None)
    assert (whole.snapshot, whole.base_revision) == (True, 0)
    (workload,) = whole.workloads
    assert (workload.workload_id, workload.epoch, workload.goal) == (first.deployment_id, 1, Goal.RUN)
    assert (workload.served_name, workload.port, workload.request_id) == ("tiny", 9000, "req-1")
    assert f"{workload.artifact_url}/blobs" == model.minio_path
    assert {file.path: file.size_bytes for file in workload.files} == {
        path: len(content) for path, content in tiny_model().items()
    }
    assert (await rooms.workloads.desired(node_id, whole.revision)).workloads == ()
    second = await rooms.deploy()
    delta = await rooms.workloads.desired(node_id, whole.revision)
    assert (delta.snapshot, delta.base_revision, delta.revision) == (False, whole.revision, whole.revision + 1)
    assert [each.workload_id for each in delta.workloads] == [second.deployment_id]
    await rooms.stop(first.deployment_id)
    ended = await rooms.workloads.desired(node_id, delta.revision)
    assert [(each.workload_id, each.goal) for each in ended.workloads] == [(first.deployment_id, Goal.END)]
    assert ended.workloads[0].drain_seconds > 0
    ahead = await rooms.workloads.desired(node_id, ended.revision + 10)
    assert (ahead.snapshot, len(ahead.workloads)) == (True, 2)


async def test_a_plan_is_what_a_deployment_becomes_and_changes_nothing(rooms: Rooms) -> None:
    for name, free in (("small", 300), ("good", 4_000), ("better", 8_000)):
        await rooms.join(name, ram_free=free)
    await rooms.import_model("tiny")
    request = pb.PlanDeploymentRequest(model_id="tiny")
    planned = await rooms.deployments.PlanDeployment(request, metadata=EDITOR)
    assert planned.placement.node_name == "better"
    assert {each.node_name: each.reason.split(",")[0] for each in planned.refusals}["good"] == "it fits"
    listed = await rooms.deployments.ListDeployments(pb.ListDeploymentsRequest(), metadata=EDITOR)
    assert not listed.deployments
    deployment = await rooms.deploy()
    assert (deployment.node_id, deployment.memory_allocated) == (
        planned.placement.node_id,
        planned.placement.memory_mb,
    )
    second = await rooms.deployments.PlanDeployment(request, metadata=EDITOR)
    assert second.placement.node_name == "good"


async def test_no_fit_is_a_plan_without_a_place_and_a_refused_deployment(rooms: Rooms) -> None:
    await rooms.import_model("tiny")
    lonely = await refusal(rooms.deploy())
    assert (lonely.code, lonely.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_PLACEMENT")
    assert "aiops node join" in lonely.message
    await rooms.join("small", ram_free=300)
    gone = await rooms.join("gone")
    await rooms.lose(gone)
    planned = await rooms.deployments.PlanDeployment(pb.PlanDeploymentRequest(model_id="tiny"), metadata=EDITOR)
    assert not planned.HasField("placement")
    assert {each.node_name for each in planned.refusals} == {"small", "gone"}
    error = await refusal(rooms.deploy())
    assert error.reason == "NO_PLACEMENT"
    assert "small" in error.message
    assert "offline" in error.message


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"model_id": "unknown"}, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        ({"node_id": "node-unknown"}, grpc.StatusCode.NOT_FOUND, "NODE_NOT_FOUND"),
        ({"gpu_device": "3"}, grpc.StatusCode.FAILED_PRECONDITION, "GPU_DEVICE_NOT_FOUND"),
        ({"gpu_device": "0,0"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ({"gpu_device": "a"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ({"port": 80}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ({"port": 70_000}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ({"port": 9000}, grpc.StatusCode.FAILED_PRECONDITION, "PORT_IN_USE"),
    ],
)
async def test_a_wish_that_cannot_be_met_is_refused(
    rooms: Rooms, fields: dict[str, Any], code: grpc.StatusCode, reason: str
) -> None:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    await rooms.deploy(port=9000)
    wish = {"model": fields.pop("model_id", "tiny"), **fields}
    error = await refusal(rooms.deploy(**wish))
    assert (error.code, error.reason) == (code, reason)


async def test_the_port_of_a_stopped_or_failed_deployment_is_free_again(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    first = await rooms.deploy(port=9000)
    await rooms.stop(first.deployment_id)
    second = await rooms.deploy(port=9000)
    await rooms.report(second, state=WorkloadState.FAILED, error="no")
    third = await rooms.deploy()
    await rooms.report(third, state=WorkloadState.RUNNING, port=9000)
    assert (await refusal(rooms.deploy(port=9000))).reason == "PORT_IN_USE"


async def test_a_card_is_chosen_and_its_memory_claimed(rooms: Rooms) -> None:
    await rooms.join("gpu-1", gpus=(gpu("0", free=3_000), gpu("1")), engines=("vllm",))
    await rooms.import_model("tiny")
    deployment = await rooms.deploy()
    assert deployment.gpu_device == "1"
    chosen = await rooms.deploy(gpu_device="0")
    assert chosen.gpu_device == "0"
    assert (await refusal(rooms.deploy(gpu_device="0"))).reason == "NO_PLACEMENT"


async def test_the_same_request_id_answers_the_same_deployment(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    answers = await asyncio.gather(*(rooms.deploy(request_id="once") for _ in range(8)))
    assert len({answer.deployment_id for answer in answers}) == 1
    assert len(await rooms.events("system.deploymentCreated")) == 1
    error = await refusal(rooms.deploy(request_id="once", port=9000))
    assert error.reason == "REQUEST_ID_REUSED"


async def test_a_thousand_deployments_at_once_claim_nothing_twice(rooms: Rooms) -> None:
    """Room for 60 on each of two nodes, 1,000 who want it, of two models, so that nothing but the node orders them."""
    weights = 100 * 1024 * 1024
    content = safetensors({"w": ("U8", [weights], weights)})
    files = {**tiny_model(), "model.safetensors": content}
    await asyncio.gather(rooms.import_model("one", files), rooms.import_model("two", files))
    nodes = [await rooms.join(f"node-{number}", ram_free=45_000, ram_total=50_000) for number in range(2)]
    calls = (rooms.deploy(("one", "two")[number % 2], request_id=f"r{number}") for number in range(1_000))
    outcomes = Counter[str]()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        outcomes[outcome.code().name if isinstance(outcome, grpc.aio.AioRpcError) else type(outcome).__name__] += 1
    async with rooms.unit_of_work.reading(SYSTEM) as work:
        for node_id in nodes:
            held = await work.deployments.on_node(node_id)
            assert 45_000 - 800 < sum(each.memory_allocated for each in held) + 256 <= 45_000
            assert len({each.revision for each in held}) == len(held)
        spread = [len(await work.deployments.on_node(node_id)) for node_id in nodes]
    assert set(outcomes) == {"Deployment", "FAILED_PRECONDITION"}
    assert outcomes["Deployment"] == sum(spread)
    assert abs(spread[0] - spread[1]) <= 2


async def test_a_deployment_and_a_deletion_of_its_model_never_both_succeed(rooms: Rooms) -> None:
    await rooms.join("node-1", ram_free=60_000, ram_total=64_000)
    for number in range(6):
        name = f"tiny-{number}"
        model = await rooms.import_model(name)
        async with rooms.unit_of_work(SYSTEM) as work:
            deleting = await work.models.get(model.model_id, SYSTEM, lock=True)
            call = asyncio.ensure_future(rooms.deploy(model.model_id))
            await asyncio.wait((call,), timeout=0.05)
            assert not call.done()
            await work.models.save_deleted(deleting.delete(rooms.clock.now()))
            await work.commit()
        assert (await refusal(call)).reason == "MODEL_NOT_FOUND"
        async with rooms.unit_of_work.reading(SYSTEM) as reading:
            assert await reading.deployments.active_of(ModelId(model.model_id)) == []


async def test_another_organisation_sees_and_touches_nothing(rooms: Rooms) -> None:
    node_id = await rooms.join("node-1")
    theirs = await rooms.join("node-2", org="org-b")
    await rooms.import_model("tiny")
    mine = (await rooms.deploy()).deployment_id
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: rooms.get(mine, STRANGER),
        lambda: rooms.stop(mine, STRANGER),
        lambda: rooms.deployments.GetDeploymentLogs(pb.GetDeploymentLogsRequest(deployment_id=mine), metadata=STRANGER),
        lambda: rooms.deployments.FollowDeploymentLogs(
            pb.FollowDeploymentLogsRequest(deployment_id=mine), metadata=STRANGER
        ).read(),
        lambda: rooms.deployments.GetDeploymentMetrics(
            pb.GetDeploymentMetricsRequest(deployment_id=mine), metadata=STRANGER
        ),
    ]
    for call in calls:
        error = await refusal(call())
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "DEPLOYMENT_NOT_FOUND")
    listed = await rooms.deployments.ListDeployments(pb.ListDeploymentsRequest(node_id=node_id), metadata=STRANGER)
    assert not listed.deployments
    assert (await refusal(rooms.deploy(node_id=theirs))).reason == "NODE_NOT_FOUND"
    assert (await refusal(rooms.deploy(node_id=theirs, by=ADMIN))).reason == "NODE_NOT_FOUND"
    await rooms.import_model("tiny", by=STRANGER)
    assert (await rooms.deploy(by=STRANGER)).node_id == theirs
    assert (await rooms.get(mine, person("org-b", "universe.viewer"))).deployment_id == mine
    viewer = await refusal(rooms.deploy(by=person(role="organization.viewer")))
    assert viewer.code is grpc.StatusCode.PERMISSION_DENIED


async def test_deployments_are_listed_by_status_model_and_node(rooms: Rooms) -> None:
    nodes = [await rooms.join("node-1"), await rooms.join("node-2")]
    model = await rooms.import_model("tiny")
    made = [await rooms.deploy() for _ in range(4)]
    await rooms.report(made[0], state=WorkloadState.RUNNING)
    await rooms.stop(made[1].deployment_id)

    async def ids(**filters: Any) -> set[str]:
        answer = await rooms.deployments.ListDeployments(pb.ListDeploymentsRequest(**filters), metadata=EDITOR)
        return {each.deployment_id for each in answer.deployments}

    assert await ids() == {each.deployment_id for each in made}
    assert await ids(status=deployment_pb2.Deployment.running) == {made[0].deployment_id}
    assert await ids(status=deployment_pb2.Deployment.stopped) == {made[1].deployment_id}
    assert await ids(model_id=model.model_id, node_id=nodes[0]) == {
        each.deployment_id for each in made if each.node_id == nodes[0]
    }
    assert await ids(model_id="tiny", status=deployment_pb2.Deployment.running) == {made[0].deployment_id}
    assert await ids(model_id="model-other") == set()
    first = await rooms.deployments.ListDeployments(pb.ListDeploymentsRequest(page_size=3), metadata=EDITOR)
    rest = await ids(page_token=first.next_page_token)
    assert len(rest) == 1
    assert rest.isdisjoint({each.deployment_id for each in first.deployments})


async def test_a_model_without_what_its_memory_depends_on_is_not_placed(rooms: Rooms) -> None:
    await rooms.join("node-1")
    config = {name: value for name, value in CONFIG.items() if name != "num_hidden_layers"}
    await rooms.import_model("odd", tiny_model(config=config))
    error = await refusal(rooms.deploy("odd"))
    assert error.reason == "NO_PLACEMENT"
    assert "the files of odd lack layers" in error.message


async def test_a_node_in_maintenance_keeps_what_runs_and_takes_nothing_new(rooms: Rooms) -> None:
    node_id = await rooms.join("node-1")
    await rooms.import_model("tiny")
    await rooms.report(await rooms.deploy(), state=WorkloadState.RUNNING)
    async with rooms.unit_of_work(SYSTEM) as work:
        node = await work.nodes.get(NodeId(node_id), SYSTEM, lock=True)
        await work.nodes.save(node.enter_maintenance(rooms.clock.now()))
        await work.commit()
    assert "maintenance" in (await refusal(rooms.deploy())).message
    async with rooms.unit_of_work.reading(SYSTEM) as reading:
        assert len(await reading.deployments.replicas()) == 1
