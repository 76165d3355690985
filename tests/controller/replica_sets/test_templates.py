"""Replicas have the state of the model and the adapters that their template names, also those that come later."""

import grpc
import pytest
from aiops.deployments.v1 import deployment_pb2, replica_set_pb2
from aiops.deployments.v1 import replica_set_service_pb2 as pb
from aiops.models.v1 import model_pb2, model_service_pb2
from aiops.types.v1 import engine_pb2

from controller.deployments.workload import Goal
from controller.nodes.model import NodeId
from tests.controller.deployments.test_drain import change, drainer
from tests.controller.replica_sets.test_replica_sets import active, create, get, reconciler, run, served, update
from tests.fakes.model_files import Files, tiny_adapter, tiny_model, upload
from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, Rooms, person

Set = replica_set_pb2.ReplicaSet
ROOM = engine_pb2.EngineOptions(max_adapters=1)


async def bring(rooms: Rooms, files: Files) -> model_pb2.Model:
    """Makes these files the model's newest revision, and the current one."""
    answer = await rooms.models.ImportModel(upload("tiny", files, new_revision=True), metadata=EDITOR)
    return answer.model


async def digests(rooms: Rooms) -> list[str]:
    """The model's revision that each replica has, the oldest first."""
    return [each.model_revision for each in await active(rooms)]


async def adapter_files(rooms: Rooms, node_id: str) -> list[set[str]]:
    """The files of the adapter that each replica on the node has."""
    told = (await rooms.workloads.desired(NodeId(node_id), None)).workloads
    return [{file.path for file in each.adapters[0].files} for each in told if each.goal is Goal.RUN]


async def settle(rooms: Rooms) -> Set:
    """Lets the set come to rest: what starts runs."""
    loop = reconciler(rooms)
    for _ in range(12):
        await loop.look()
        await run(rooms, *(each for each in await active(rooms) if each.status == deployment_pb2.Deployment.deploying))
    await loop.look()
    return await get(rooms)


async def test_a_set_stays_with_its_revision_of_the_model_until_a_rollout(rooms: Rooms) -> None:
    home = await rooms.join("node-1")
    first = await rooms.import_model("tiny")
    await served(rooms)
    second = await bring(rooms, tiny_model(rows=200))
    assert second.digest != first.digest
    await update(rooms, replicas=3)
    await settle(rooms)
    assert await digests(rooms) == [first.digest] * 3
    told = (await rooms.workloads.desired(home, None)).workloads
    assert len({tuple(file.sha256 for file in each.files) for each in told}) == 1
    # Also the one that takes a replica's place.
    await rooms.join("node-2")
    await change(rooms, home, "drain")
    await settle(rooms)
    assert await digests(rooms) == [first.digest] * 3
    rolled = await update(rooms, template=pb.ReplicaTemplateWish())
    assert (rolled.template.model_digest, rolled.template.model_revision_number) == (second.digest, 2)
    await settle(rooms)
    assert await digests(rooms) == [second.digest] * 3
    request = pb.RollBackRequest(replica_set_id="tiny")
    back = (await rooms.sets.RollBack(request, metadata=EDITOR)).replica_set
    assert (back.template.model_digest, back.template.model_revision_number) == (first.digest, 1)
    now = await settle(rooms)
    assert (now.status, await digests(rooms)) == (Set.ready, [first.digest] * 3)


async def test_a_revision_can_be_named(rooms: Rooms) -> None:
    await rooms.join("node-1")
    first = await rooms.import_model("tiny")
    second = await bring(rooms, tiny_model(rows=200))
    made = await create(rooms, 1, template=pb.ReplicaTemplateWish(model_revision="1"))
    assert made.template.model_digest == first.digest
    await settle(rooms)
    assert await digests(rooms) == [first.digest]
    rolled = await update(rooms, template=pb.ReplicaTemplateWish(model_revision=second.digest))
    assert rolled.template.model_revision_number == 2
    alone = await rooms.deploy(model_revision="1")
    assert alone.model_revision == first.digest
    for unknown in (
        update(rooms, template=pb.ReplicaTemplateWish(model_revision="7")),
        create(rooms, 1, name="other", template=pb.ReplicaTemplateWish(model_revision="f" * 64)),
        rooms.deploy(model_revision="7"),
    ):
        error = await refusal(unknown)
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_REVISION_NOT_FOUND")


async def test_a_drained_deployment_is_replaced_by_one_of_its_own_revision(rooms: Rooms) -> None:
    home = await rooms.join("node-1")
    first = await rooms.import_model("tiny")
    await run(rooms, await rooms.deploy())
    await bring(rooms, tiny_model(rows=200))
    other = await rooms.join("node-2")
    await change(rooms, home, "drain")
    await drainer(rooms).look()
    (fresh,) = [each for each in await active(rooms) if each.node_id == other]
    assert fresh.model_revision == first.digest


async def test_replicas_have_the_adapters_of_their_template(rooms: Rooms) -> None:
    home = await rooms.join("node-1", engines=("vllm",), ram_total=64_000, ram_free=60_000)
    await rooms.import_model("tiny")
    pirate = await rooms.import_model("pirate", tiny_adapter())
    made = await create(rooms, 2, template=pb.ReplicaTemplateWish(adapters=["pirate"], engine_options=ROOM))
    assert list(made.template.adapters) == [pirate.model_id]
    await settle(rooms)
    assert [[adapter.name for adapter in each.adapters] for each in await active(rooms)] == [["pirate"]] * 2
    for workload in (await rooms.workloads.desired(NodeId(home), None)).workloads:
        (adapter,) = workload.adapters
        assert {file.path for file in adapter.files} == set(tiny_adapter())
    newer = {**tiny_adapter(), "more.txt": b"x"}
    await rooms.models.ImportModel(upload("pirate", newer, new_revision=True), metadata=EDITOR)
    await update(rooms, replicas=3)
    await settle(rooms)
    assert await adapter_files(rooms, home) == [set(tiny_adapter())] * 3
    template = pb.ReplicaTemplateWish(adapters=["pirate"], engine_options=ROOM)
    await update(rooms, template=template)
    await settle(rooms)
    assert await adapter_files(rooms, home) == [set(newer)] * 3
    gone = model_service_pb2.DeleteModelRequest(model_id="pirate")
    assert (await refusal(rooms.models.DeleteModel(gone, metadata=person("org-a", "organization.owner")))).reason == (
        "MODEL_IN_USE"
    )
    await update(rooms, replicas=0)
    await settle(rooms)
    await rooms.models.DeleteModel(gone, metadata=person("org-a", "organization.owner"))
    await update(rooms, replicas=1)
    now = await settle(rooms)
    assert (now.status, pirate.model_id in now.status_reason) == (Set.degraded, True)


@pytest.mark.parametrize(
    ("adapters", "reason"),
    [
        (["pirate", "poet"], "ADAPTERS_UNAVAILABLE"),
        (["tiny"], "NOT_AN_ADAPTER"),
        (["none"], "MODEL_NOT_FOUND"),
        (["strange"], "MODEL_NOT_FOUND"),
    ],
)
async def test_adapters_that_replicas_cannot_have_are_refused_at_once(
    rooms: Rooms, adapters: list[str], reason: str
) -> None:
    await rooms.import_model("tiny")
    await rooms.import_model("pirate", tiny_adapter())
    await rooms.import_model("poet", {**tiny_adapter(), "more.txt": b"x"})
    strange = await rooms.import_model("strange", {**tiny_adapter(), "more.txt": b"y"}, by=person("org-b"))
    named = [strange.model_id if each == "strange" else each for each in adapters]
    template = pb.ReplicaTemplateWish(adapters=named, engine_options=ROOM)
    assert (await refusal(create(rooms, 1, template=template))).reason == reason
