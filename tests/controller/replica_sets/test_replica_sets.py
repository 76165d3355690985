"""So many replicas are kept running, wherever there is room, and change without one serving too few."""

from datetime import timedelta
from typing import Any

import grpc
import pytest
from aiops.deployments.v1 import deployment_pb2, replica_set_pb2
from aiops.deployments.v1 import deployment_service_pb2 as deployments_pb
from aiops.deployments.v1 import replica_set_service_pb2 as pb
from sqlalchemy import text

from controller.deployments.workload import WorkloadState
from controller.nodes.model import NodeId
from controller.replica_sets.reconcile import Reconciler
from mesh.identity import SYSTEM
from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, STRANGER, Rooms, person

Set = replica_set_pb2.ReplicaSet
RUNNING, DEPLOYING = deployment_pb2.Deployment.running, deployment_pb2.Deployment.deploying


def reconciler(rooms: Rooms) -> Reconciler:
    return Reconciler(rooms.unit_of_work, rooms.hints, rooms.clock)


async def create(rooms: Rooms, replicas: int = 2, **fields: Any) -> Set:
    request = pb.CreateReplicaSetRequest(**{"model_id": "tiny", "replicas": replicas, **fields})
    return (await rooms.sets.CreateReplicaSet(request, metadata=EDITOR)).replica_set


async def get(rooms: Rooms, reference: str = "tiny") -> Set:
    request = pb.GetReplicaSetRequest(replica_set_id=reference)
    return (await rooms.sets.GetReplicaSet(request, metadata=EDITOR)).replica_set


async def update(rooms: Rooms, **fields: Any) -> Set:
    request = pb.UpdateReplicaSetRequest(replica_set_id="tiny", replica_set=pb.ReplicaSetUpdate(**fields))
    request.update_mask.paths.extend(fields)
    return (await rooms.sets.UpdateReplicaSet(request, metadata=EDITOR)).replica_set


async def active(rooms: Rooms) -> list[deployment_pb2.Deployment]:
    """The deployments that deploy or run, the oldest first."""
    listed = await rooms.deployments.ListDeployments(deployments_pb.ListDeploymentsRequest(), metadata=EDITOR)
    return [each for each in reversed(listed.deployments) if each.status in (RUNNING, DEPLOYING)]


async def run(rooms: Rooms, *deployments: deployment_pb2.Deployment) -> None:
    """They run, and have done so for long enough to be routed."""
    for each in deployments:
        await rooms.report(each, state=WorkloadState.RUNNING, port=9000)
    async with rooms.database.writing(SYSTEM) as connection:
        await connection.execute(text("UPDATE deployments SET deployed_at = deployed_at - interval '3 s'"))
        await connection.commit()


async def served(rooms: Rooms, replicas: int = 2, **fields: Any) -> Reconciler:
    """A set that has come to rest."""
    loop = reconciler(rooms)
    await create(rooms, replicas, **fields)
    await loop.look()
    await run(rooms, *await active(rooms))
    await loop.look()
    assert (await get(rooms)).status == Set.ready
    return loop


async def test_replicas_are_started_spread_and_counted(rooms: Rooms) -> None:
    nodes = [await rooms.join(f"node-{number}") for number in range(3)]
    model = await rooms.import_model("tiny")
    loop = reconciler(rooms)
    asked = pb.ReplicaTemplateWish(environment={"A": "b"}, context_tokens=256, priority=7)
    made = await create(rooms, 3, template=asked)
    assert (made.name, made.status, made.revision, made.template.model_digest) == (
        "tiny",
        Set.progressing,
        1,
        model.digest,
    )
    await loop.look()
    started = await active(rooms)
    assert {each.node_id for each in started} == set(nodes)
    assert {(each.replica_set_id, each.template_revision) for each in started} == {(made.replica_set_id, 1)}
    (workload,) = (await rooms.workloads.desired(nodes[0], None)).workloads
    assert dict(workload.environment) == {"A": "b"}
    assert {(each.context_tokens, each.priority) for each in started} == {(256, 7)}
    assert ((await get(rooms)).template.context_tokens, made.template.priority) == (256, 7)
    await run(rooms, *started[:2])
    await loop.look()
    now = await get(rooms)
    assert (now.status, now.ready_replicas, now.active_replicas) == (Set.progressing, 2, 3)
    assert now.status_reason == "2 of 3 replicas serve"
    await run(rooms, started[2])
    await loop.look()
    now = await get(rooms, made.replica_set_id)
    assert (now.status, now.ready_replicas, now.stable_revision, now.status_reason) == (Set.ready, 3, 1, "")
    assert [each["status"] for each in await rooms.events("system.replicaSetStatus")] == ["progressing", "ready"]


async def test_what_finds_no_room_says_why_and_follows_when_there_is_some(rooms: Rooms) -> None:
    await rooms.join("small", ram_free=1_600)
    await rooms.import_model("tiny")
    loop = reconciler(rooms)
    await create(rooms, 3)
    await loop.look()
    await run(rooms, *await active(rooms))
    await loop.look()
    now = await get(rooms)
    assert (now.status, now.ready_replicas) == (Set.degraded, 2)
    assert now.status_reason.startswith("2 of 3 replicas serve; no node can take tiny")
    assert "small" in now.status_reason
    with loop.watching():
        other = await rooms.join("large")
        await loop.step()
    assert [each.node_id for each in await active(rooms)][2] == other


async def test_scaling_starts_more_and_ends_what_is_too_many(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    loop = await served(rooms)
    assert (await update(rooms, replicas=4)).replicas == 4
    await loop.look()
    four = await active(rooms)
    assert len(four) == 4
    await update(rooms, replicas=1)
    await loop.look()
    assert [each.deployment_id for each in await active(rooms)] == [four[0].deployment_id]
    assert (await get(rooms)).status == Set.ready
    await update(rooms, replicas=0)
    await loop.look()
    assert await active(rooms) == []
    assert (await get(rooms)).status == Set.ready


async def test_a_rollout_goes_one_by_one_and_can_be_paused(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    loop = await served(rooms)
    first = await active(rooms)
    await update(rooms, template=pb.ReplicaTemplateWish(environment={"GENERATION": "2"}))
    await loop.look()
    (fresh,) = [each for each in await active(rooms) if each.template_revision == 2]
    assert len(await active(rooms)) == 3
    await run(rooms, fresh)
    await rooms.sets.PauseRollout(pb.PauseRolloutRequest(replica_set_id="tiny"), metadata=EDITOR)
    await loop.look()
    paused = await get(rooms)
    assert (paused.status, paused.rollout_paused) == (Set.paused, True)
    assert len(await active(rooms)) == 2
    await rooms.sets.ResumeRollout(pb.ResumeRolloutRequest(replica_set_id="tiny"), metadata=EDITOR)
    for _ in range(4):
        await loop.look()
        await run(rooms, *[each for each in await active(rooms) if each.status == DEPLOYING])
    await loop.look()
    now = await get(rooms)
    assert (now.status, now.stable_revision, now.updated_replicas) == (Set.ready, 2, 2)
    assert {each.template_revision for each in await active(rooms)} == {2}
    assert not {each.deployment_id for each in first} & {each.deployment_id for each in await active(rooms)}
    back = await rooms.sets.RollBack(pb.RollBackRequest(replica_set_id="tiny"), metadata=EDITOR)
    assert back.replica_set.revision == 1


async def test_a_revision_that_cannot_start_is_taken_back_and_nothing_else_was_touched(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    loop = await served(rooms)
    first = {each.deployment_id for each in await active(rooms)}
    await update(rooms, template=pb.ReplicaTemplateWish(environment={"GENERATION": "2"}))
    await loop.look()
    (fresh,) = [each for each in await active(rooms) if each.template_revision == 2]
    await rooms.report(fresh, state=WorkloadState.FAILED, error="the engine lacks a library")
    await loop.look()
    now = await get(rooms)
    assert (now.revision, now.status, now.ready_replicas) == (1, Set.ready, 2)
    assert "revision 2 was taken back to revision 1" in now.status_reason
    assert "the engine lacks a library" in now.status_reason
    assert {each.deployment_id for each in await active(rooms)} == first


async def test_a_replica_that_fails_is_replaced_later_and_later_and_says_what_ails_it(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    loop = await served(rooms, progress_deadline_seconds=60)
    victim = (await active(rooms))[0]
    await rooms.report(victim, state=WorkloadState.FAILED, error="out of memory", error_reason="OUT_OF_MEMORY")
    await loop.look()
    now = await get(rooms)
    assert (now.status, now.failures, now.ready_replicas) == (Set.degraded, 1, 1)
    assert now.HasField("next_attempt_at")
    assert "out of memory" in now.status_reason
    assert len(await active(rooms)) == 1
    await _earlier(rooms, "next_attempt_at", 11)
    await loop.look()
    assert len(await active(rooms)) == 2
    await _earlier(rooms, "progressed_at", 61)
    await loop.look()
    overdue = await get(rooms)
    assert (overdue.status, overdue.failures) == (Set.failed, 1)
    assert "progress deadline" in overdue.status_reason
    await run(rooms, *await active(rooms))
    await loop.look()
    healed = await get(rooms)
    assert (healed.status, healed.failures, healed.status_reason) == (Set.ready, 0, "")


async def test_a_replica_of_a_lost_node_moves_and_keeps_its_place_in_the_set(rooms: Rooms) -> None:
    from controller.deployments.failover import Failover

    lost, other = await rooms.join("node-1"), await rooms.join("node-2")
    await rooms.import_model("tiny")
    loop = await served(rooms)
    before = await active(rooms)
    await rooms.lose(NodeId(lost))
    await Failover(rooms.unit_of_work, rooms.hints, rooms.clock).look()
    await loop.look()
    after = await active(rooms)
    assert [each.deployment_id for each in after] == [each.deployment_id for each in before]
    assert {each.node_id for each in after} == {other}
    assert (await get(rooms)).status == Set.progressing


async def test_the_same_request_makes_one_set_and_a_name_belongs_to_one(rooms: Rooms) -> None:
    await rooms.import_model("tiny")
    once = await create(rooms, request_id="r1")
    assert (await create(rooms, request_id="r1")).replica_set_id == once.replica_set_id
    assert (await refusal(create(rooms))).reason == "REPLICA_SET_EXISTS"
    other = await create(rooms, name="second")
    request = pb.ListReplicaSetsRequest(page_size=1, model_id="tiny")
    page = await rooms.sets.ListReplicaSets(request, metadata=EDITOR)
    assert [each.name for each in page.replica_sets] == ["second"]
    request.page_token = page.next_page_token
    assert [each.name for each in (await rooms.sets.ListReplicaSets(request, metadata=EDITOR)).replica_sets] == ["tiny"]
    hidden = pb.GetReplicaSetRequest(replica_set_id=other.replica_set_id)
    assert (await refusal(rooms.sets.GetReplicaSet(hidden, metadata=STRANGER))).reason == "REPLICA_SET_NOT_FOUND"
    viewer = await refusal(
        rooms.sets.DeleteReplicaSet(
            pb.DeleteReplicaSetRequest(replica_set_id="tiny"), metadata=person(role="organization.viewer")
        )
    )
    assert viewer.code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("path", ["name", "revision"])
async def test_what_cannot_be_changed_is_refused(rooms: Rooms, path: str) -> None:
    await rooms.import_model("tiny")
    await create(rooms)
    request = pb.UpdateReplicaSetRequest(replica_set_id="tiny", replica_set=pb.ReplicaSetUpdate(replicas=1))
    request.update_mask.paths.append(path)
    assert (await refusal(rooms.sets.UpdateReplicaSet(request, metadata=EDITOR))).reason == "INVALID_REQUEST"


async def test_a_deleted_set_ends_its_replicas_and_frees_its_name(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    loop = await served(rooms)
    set_id = (await get(rooms)).replica_set_id
    for _ in range(2):
        gone = await rooms.sets.DeleteReplicaSet(pb.DeleteReplicaSetRequest(replica_set_id=set_id), metadata=EDITOR)
        assert gone.replica_set.is_deleted
    await loop.look()
    assert await active(rooms) == []
    request = pb.UpdateReplicaSetRequest(replica_set_id=set_id, replica_set=pb.ReplicaSetUpdate(replicas=3))
    assert (await refusal(rooms.sets.UpdateReplicaSet(request, metadata=EDITOR))).reason == "REPLICA_SET_NOT_FOUND"
    assert (await create(rooms)).replica_set_id != set_id


async def test_one_that_somebody_stops_is_replaced_and_two_loops_make_no_more_than_wanted(rooms: Rooms) -> None:
    import asyncio

    await rooms.join("node-1")
    await rooms.import_model("tiny")
    await served(rooms, 3)
    await rooms.stop((await active(rooms))[1].deployment_id)
    await asyncio.gather(*(reconciler(rooms).look() for _ in range(3)))
    assert len(await active(rooms)) == 3


async def _earlier(rooms: Rooms, column: str, seconds: int) -> None:
    statement = text(f"UPDATE replica_sets SET {column} = {column} - CAST(:span AS interval)")  # noqa: S608 - our own
    async with rooms.database.writing(SYSTEM) as connection:
        await connection.execute(statement, {"span": timedelta(seconds=seconds)})
        await connection.commit()
