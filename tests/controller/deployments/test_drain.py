"""A node is emptied without a gap: what takes a deployment's place runs before the deployment ends."""

from typing import Any

from aiops.deployments.v1 import deployment_pb2
from sqlalchemy import text

from controller.deployments.drain import Drainer
from controller.deployments.workload import WorkloadState
from controller.nodes.model import Node, NodeId
from mesh.identity import SYSTEM
from tests.fixtures.registry import Rooms

RUNNING, DEPLOYING, STOPPED = (
    deployment_pb2.Deployment.running,
    deployment_pb2.Deployment.deploying,
    deployment_pb2.Deployment.stopped,
)


def drainer(rooms: Rooms) -> Drainer:
    return Drainer(rooms.unit_of_work, rooms.hints, rooms.clock)


async def change(rooms: Rooms, node_id: NodeId, verb: str) -> None:
    """The node is drained, or taken back."""
    async with rooms.unit_of_work(SYSTEM) as work:
        node: Node = await work.nodes.get(node_id, SYSTEM, lock=True)
        after = node.drain(rooms.clock.now()) if verb == "drain" else node.exit_maintenance(rooms.clock.now())
        await work.nodes.save(after)
        await work.commit()
    rooms.hints.fleet_changed()


async def run(rooms: Rooms, deployment: deployment_pb2.Deployment) -> deployment_pb2.Deployment:
    """It runs, and has done so for long enough to be routed."""
    running = await rooms.report(deployment, state=WorkloadState.RUNNING, port=9000)
    async with rooms.database.writing(SYSTEM) as connection:
        await connection.execute(text("UPDATE deployments SET deployed_at = deployed_at - interval '3 s'"))
        await connection.commit()
    return running


async def on(rooms: Rooms, node_id: NodeId) -> list[Any]:
    async with rooms.unit_of_work.reading(SYSTEM) as work:
        return [each for each in await work.deployments.on_node(node_id) if each.active]


async def test_the_replacement_runs_before_the_first_one_ends(rooms: Rooms) -> None:
    home = await rooms.join("node-1")
    await rooms.import_model("tiny")
    first = await run(rooms, await rooms.deploy(port=9100))
    other = await rooms.join("node-2")
    await change(rooms, home, "drain")
    loop = drainer(rooms)
    await loop.look()
    await loop.look()
    (fresh,) = await on(rooms, other)
    assert (fresh.replaces, fresh.requested_port) == (first.deployment_id, 9100)
    assert fresh.deployment_id in (await rooms.get(first.deployment_id)).status_reason
    assert (await rooms.get(first.deployment_id)).status == RUNNING
    (left,) = await rooms.workloads.left_on(SYSTEM, home)
    assert (left.status, left.pinned) == ("running", False)
    await run(rooms, await rooms.get(fresh.deployment_id))
    await loop.look()
    ended = await rooms.get(first.deployment_id)
    assert (ended.status, ended.status_reason) == (
        STOPPED,
        f"replaced by {fresh.deployment_id}, for its node was drained",
    )
    assert [each.status for each in await rooms.workloads.left_on(SYSTEM, home)] == ["ending"]
    await rooms.report(ended, state=WorkloadState.STOPPED)
    assert await rooms.workloads.left_on(SYSTEM, home) == ()
    await change(rooms, home, "resume")
    await loop.look()
    assert (await rooms.get(fresh.deployment_id)).status == RUNNING


async def test_what_was_put_there_by_hand_stays_and_what_has_no_place_says_so(rooms: Rooms) -> None:
    home = await rooms.join("node-1")
    await rooms.import_model("tiny")
    pinned, free = await run(rooms, await rooms.deploy(node_id=home)), await run(rooms, await rooms.deploy())
    await change(rooms, home, "drain")
    loop = drainer(rooms)
    with loop.watching():
        await loop.look()
        waiting = await rooms.get(free.deployment_id)
        assert waiting.status == RUNNING
        assert "waiting for another place" in waiting.status_reason
        left = {each.deployment_id: each.pinned for each in await rooms.workloads.left_on(SYSTEM, home)}
        assert left == {pinned.deployment_id: True, free.deployment_id: False}
        other = await rooms.join("node-2")
        await loop.step()
    assert [each.replaces for each in await on(rooms, other)] == [free.deployment_id]


async def test_a_replacement_that_fails_ends_and_the_first_one_goes_on(rooms: Rooms) -> None:
    home = await rooms.join("node-1")
    await rooms.import_model("tiny")
    first = await run(rooms, await rooms.deploy())
    other = await rooms.join("node-2")
    await change(rooms, home, "drain")
    loop = drainer(rooms)
    await loop.look()
    (fresh,) = await on(rooms, other)
    await rooms.report(await rooms.get(fresh.deployment_id), state=WorkloadState.FAILED, error="no library")
    await loop.look()
    assert (await rooms.get(fresh.deployment_id)).status == STOPPED
    still = await rooms.get(first.deployment_id)
    assert (still.status, "no library" in still.status_reason) == (RUNNING, True)


async def test_a_drain_that_is_taken_back_ends_what_is_not_needed(rooms: Rooms) -> None:
    home = await rooms.join("node-1")
    await rooms.import_model("tiny")
    kept, stopped = await run(rooms, await rooms.deploy()), await run(rooms, await rooms.deploy())
    other = await rooms.join("node-2")
    await change(rooms, home, "drain")
    loop = drainer(rooms)
    await loop.look()
    assert len(await on(rooms, other)) == 2
    await rooms.stop(stopped.deployment_id)
    await loop.look()
    assert [each.replaces for each in await on(rooms, other)] == [kept.deployment_id]
    await change(rooms, home, "resume")
    await loop.look()
    assert await on(rooms, other) == []
    assert (await rooms.get(kept.deployment_id)).status == RUNNING
