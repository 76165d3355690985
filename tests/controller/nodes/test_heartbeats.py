"""Heartbeats that come together are written together: each keeps all it says and is judged by itself."""

import asyncio
from dataclasses import replace

import pytest

from controller.nodes.devices import GpuDevice
from controller.nodes.heartbeats import Beat
from controller.nodes.model import Container, Gauges, NodeId, NodeRemovedError, SessionSupersededError, Tunnel
from mesh.identity import SYSTEM
from mesh.sql.paging import PageRequest
from tests.fixtures.registry import Rooms, gpu

READING = Gauges(
    gpu_devices=(gpu("0", free=123), GpuDevice("0:1", parent_device_id="0", mig_profile="1g.10gb")),
    cpu_utilization=12.5,
    ram_total=1,
    ram_free=2,
    disk_total=3,
    disk_free=4,
    tunnel=Tunnel("open", "1.40", connections=2),
)


async def test_everything_that_a_heartbeat_says_is_kept(rooms: Rooms) -> None:
    node_id = await rooms.join("node-1")
    beat = Beat(node_id, rooms.sessions[node_id], READING, (), 7, tell=True)
    answered = await rooms.liveness.heartbeat(beat)
    async with rooms.unit_of_work.reading(SYSTEM) as work:
        stored = await work.nodes.get(node_id, SYSTEM)
    assert replace(stored.gauges, measured_at=None) == READING
    assert (stored.lease_expires_at, stored.status) == (answered.lease_expires_at, answered.status)
    assert stored.applied_revision == 7
    assert len(await rooms.events("system.node.heartbeat")) == 1


async def test_heartbeats_of_many_nodes_come_out_each_for_itself(rooms: Rooms) -> None:
    nodes = [await rooms.join(f"node-{number}") for number in range(3)]
    beats = [
        Beat(each, rooms.sessions[each] + (number == 1), replace(READING, ram_free=number), (), 0, tell=False)
        for number, each in enumerate(nodes)
    ]
    beats.append(Beat(NodeId("node-unknown"), 1, READING, (), 0, tell=False))
    outcomes = await asyncio.gather(*map(rooms.liveness.heartbeat, beats), return_exceptions=True)
    assert isinstance(outcomes[1], SessionSupersededError)
    assert isinstance(outcomes[3], NodeRemovedError)
    async with rooms.unit_of_work.reading(SYSTEM) as work:
        free = [(await work.nodes.get(each, SYSTEM)).gauges.ram_free for each in nodes]
    assert free == [0, 8_000, 2]


@pytest.mark.parametrize("later", [(), (Container("c-1", memory_mb=2),), (Container("c-2"),)])
async def test_what_runs_is_what_the_last_heartbeat_said(rooms: Rooms, later: tuple[Container, ...]) -> None:
    node_id = await rooms.join("node-1")
    for containers in ((Container("c-1", memory_mb=1),), (Container("c-1", memory_mb=1),), later):
        beat = Beat(node_id, rooms.sessions[node_id], READING, containers, 0, tell=False)
        await rooms.liveness.heartbeat(beat)
    async with rooms.unit_of_work.reading(SYSTEM) as work:
        assert (await work.nodes.containers(node_id, PageRequest())).items == later
