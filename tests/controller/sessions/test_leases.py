"""A silent node is offline when its lease has run out, and a controller that could not listen takes nobody away."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta

from aiops.nodes.v1 import node_service_pb2

from controller.nodes.liveness import Liveness
from controller.nodes.model import NodeStatus
from controller.nodes.reconcile import LeaseReaper
from tests.fakes.agent import Machine
from tests.fixtures.fleet import OWNER, Fleet
from tests.fixtures.iam import refusal

LEASE = timedelta(seconds=15)
AT_ONCE = timedelta(0)


async def watch(fleet: Fleet, span: timedelta = LEASE) -> None:
    """Lets the reaper look every second for a while."""
    for _ in range(int(span.total_seconds()) + 1):
        await fleet.reaper.step()
        fleet.clock.advance(timedelta(seconds=1))


@asynccontextmanager
async def present(fleet: Fleet, *machines: Machine) -> AsyncIterator[None]:
    """Machines with open sessions that say nothing."""
    async with AsyncExitStack() as stack:
        for machine in machines:
            stream = await stack.enter_async_context(machine.session(fleet.mesh))
            await stream.welcome()
        yield


async def test_a_node_that_misses_its_lease_is_offline_and_out_of_the_routes_at_once(fleet: Fleet) -> None:
    machine = await fleet.machine()
    async with present(fleet, machine):
        await watch(fleet)
        assert (await fleet.node(machine.node_id)).status is NodeStatus.ONLINE
        await fleet.pass_time(LEASE + timedelta(seconds=1))
        with fleet.hints.watching_replicas() as routes:
            await fleet.reaper.step()
            assert await routes.wait(AT_ONCE)
        node = await fleet.node(machine.node_id)
        assert (node.status, node.websocket_connected, node.live) == (NodeStatus.OFFLINE, False, False)
    (event,) = await fleet.told("system.node.offline")
    assert (event["nodeId"], event["reason"]) == (machine.node_id, "the lease ran out")
    assert event["lastSeen"] < event["timestamp"]


async def test_an_offline_node_is_told_once_and_returns_with_a_new_session_only(fleet: Fleet) -> None:
    machine = await fleet.machine()
    async with machine.session(fleet.mesh) as stream:
        welcome = await stream.welcome()
        await watch(fleet)
        await fleet.pass_time(LEASE + timedelta(seconds=1))
        await watch(fleet, timedelta(seconds=3))
        assert (await refusal(stream.beat(welcome))).reason == "SESSION_EXPIRED"
        assert (await fleet.node(machine.node_id)).status is NodeStatus.OFFLINE
    with fleet.hints.watching_replicas() as routes, fleet.hints.watching_fleet() as room:
        async with present(fleet, machine):
            assert await routes.wait(AT_ONCE)
            assert await room.wait(AT_ONCE)
            assert (await fleet.node(machine.node_id)).status is NodeStatus.ONLINE
    assert len(await fleet.told("system.node.offline")) == 1
    assert len(await fleet.told("system.node.online")) == 2


async def test_a_restarted_controller_gives_every_node_a_whole_lease(fleet: Fleet) -> None:
    machine = await fleet.machine()
    async with present(fleet, machine):
        await fleet.pass_time(timedelta(hours=1))
        await watch(fleet, timedelta(seconds=13))
        assert (await fleet.node(machine.node_id)).status is NodeStatus.ONLINE
        await watch(fleet, timedelta(seconds=2))
        assert (await fleet.node(machine.node_id)).status is NodeStatus.OFFLINE


async def test_a_controller_that_was_away_for_a_while_starts_listening_anew(fleet: Fleet) -> None:
    machine = await fleet.machine()
    async with present(fleet, machine):
        await watch(fleet)
        await fleet.pass_time(timedelta(minutes=2))
        fleet.clock.advance(timedelta(minutes=2))
        await fleet.reaper.step()
        assert (await fleet.node(machine.node_id)).status is NodeStatus.ONLINE


class SetForward(Liveness):
    """Leases by a database whose clock is set forward."""

    ahead = timedelta(0)

    async def now(self) -> datetime:
        return await super().now() + self.ahead


async def test_a_databases_clock_that_is_set_forward_ends_no_lease_of_a_node_that_is_heard(fleet: Fleet) -> None:
    heard, silent = await fleet.machine("gpu-1"), await fleet.machine("gpu-2")
    liveness = SetForward(fleet.unit_of_work, fleet.hints, fleet.liveness.rules)
    reaper = LeaseReaper(liveness, fleet.clock, fleet.hints)

    async def watch_for(span: timedelta) -> None:
        for _ in range(int(span.total_seconds())):
            await reaper.step()
            fleet.clock.advance(timedelta(seconds=1))

    async with present(fleet, heard, silent):
        await watch_for(LEASE + timedelta(seconds=2))
        liveness.ahead = timedelta(hours=1)
        await watch_for(LEASE - timedelta(seconds=1))
        assert not await fleet.told("system.node.offline")
        # Whoever beats has a lease of the new time by now.
        await fleet.pass_time(-timedelta(hours=1), for_node=heard.node_id)
        await watch_for(timedelta(seconds=3))
    (lost,) = await fleet.told("system.node.offline")
    assert lost["nodeId"] == silent.node_id


async def test_when_most_of_the_fleet_falls_silent_together_nobody_is_taken_away(fleet: Fleet) -> None:
    machines = [await fleet.machine(f"gpu-{number}") for number in range(4)]
    async with present(fleet, *machines):
        await watch(fleet)
        for machine in machines[:3]:
            await fleet.pass_time(LEASE + timedelta(seconds=1), for_node=machine.node_id)
        await fleet.reaper.step()
        await fleet.reaper.step()
        assert not await fleet.told("system.node.offline")
        (held,) = await fleet.told("system.fleet.guard")
        assert (held["held"], held["silent"], held["leased"]) == (True, 3, 4)
        async with machines[2].session(fleet.mesh) as stream:
            await stream.welcome()
            await fleet.reaper.step()
            await fleet.reaper.step()
    assert len(await fleet.told("system.node.offline")) == 2
    assert [each["held"] for each in await fleet.told("system.fleet.guard")] == [True, False]


async def test_leases_that_end_one_after_another_are_still_lost_together(fleet: Fleet) -> None:
    machines = [await fleet.machine(f"gpu-{number}") for number in range(4)]
    async with present(fleet, *machines):
        await watch(fleet)
        await fleet.pass_time(LEASE + timedelta(seconds=1), for_node=machines[0].node_id)
        for machine in machines[1:3]:
            await fleet.pass_time(LEASE - timedelta(seconds=5), for_node=machine.node_id)
        await fleet.reaper.step()
        assert not await fleet.told("system.node.offline")
        (held,) = await fleet.told("system.fleet.guard")
        assert (held["held"], held["silent"], held["leased"]) == (True, 3, 4)


async def test_both_nodes_of_a_small_fleet_can_go(fleet: Fleet) -> None:
    machines = [await fleet.machine(f"gpu-{number}") for number in range(2)]
    async with present(fleet, *machines):
        await watch(fleet)
        await fleet.pass_time(LEASE + timedelta(seconds=1))
        await fleet.reaper.step()
    assert len(await fleet.told("system.node.offline")) == 2


async def test_a_node_that_never_connected_has_no_lease_to_lose(fleet: Fleet) -> None:
    await fleet.register()
    await watch(fleet)
    assert not await fleet.told("system.node.offline")


async def test_a_silent_node_in_maintenance_goes_offline_and_returns_into_maintenance(fleet: Fleet) -> None:
    machine = await fleet.machine()
    async with present(fleet, machine):
        request = node_service_pb2.EnterMaintenanceRequest(node_id=machine.node_id)
        await fleet.nodes.EnterMaintenance(request, metadata=OWNER)
        await watch(fleet)
        await fleet.pass_time(LEASE + timedelta(seconds=1))
        await fleet.reaper.step()
        assert (await fleet.node(machine.node_id)).status is NodeStatus.OFFLINE
    async with present(fleet, machine):
        assert (await fleet.node(machine.node_id)).status is NodeStatus.MAINTENANCE
