"""Nodes that all come at once get in a few at a time, in their order, and are told that they wait."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from controller.hints import Hints
from controller.nodes.model import NodeStatus
from controller.nodes.reconcile import LeaseReaper
from controller.sessions import rpc
from controller.sessions.admission import OPENING_AT_ONCE, Admission
from tests.fakes.clock import ManualClock
from tests.fakes.eventually import eventually
from tests.fixtures.fleet import Fleet

LEASE = timedelta(seconds=15)
SECOND = timedelta(seconds=1)


async def test_turns_are_few_at_once_and_in_the_order_of_arrival() -> None:
    admission, order, leave = Admission(ManualClock()), list[int](), asyncio.Event()

    async def enter(number: int) -> None:
        async with admission.turn():
            order.append(number)
            await leave.wait()

    async with asyncio.TaskGroup() as group:
        for number in range(3 * OPENING_AT_ONCE):
            group.create_task(enter(number))
        await eventually(lambda: _is(admission.waiting == 2 * OPENING_AT_ONCE))
        assert order == list(range(OPENING_AT_ONCE))
        leave.set()
    assert order == list(range(3 * OPENING_AT_ONCE))
    assert admission.waiting == 0


async def test_who_gives_up_waiting_leaves_the_place_to_the_next() -> None:
    admission = Admission(ManualClock())
    async with AsyncExitStack() as stack:
        for _ in range(OPENING_AT_ONCE):
            await stack.enter_async_context(admission.turn())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0), admission.turn():
                pass
        assert admission.waiting == 0
    async with admission.turn():
        assert admission.waiting == 0


async def test_a_crowd_is_one_in_which_somebody_waited_long_and_is_remembered_for_a_lease() -> None:
    clock = ManualClock()
    admission, left = Admission(clock), asyncio.Event()
    async with AsyncExitStack() as stack:
        for _ in range(OPENING_AT_ONCE):
            await stack.enter_async_context(admission.turn())

        async def come() -> None:
            async with admission.turn():
                left.set()

        coming = asyncio.create_task(come())
        await eventually(lambda: _is(admission.waiting == 1))
        assert not admission.crowded(LEASE)
        clock.advance(2 * SECOND)
        assert admission.crowded(LEASE)
        await stack.aclose()
        await coming
    clock.advance(LEASE - SECOND)
    assert admission.crowded(LEASE)
    clock.advance(2 * SECOND)
    assert not admission.crowded(LEASE)


async def test_a_node_that_waits_for_its_turn_hears_so_and_then_gets_its_session(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "WAITING_AFTER", timedelta(milliseconds=20))
    machine = await fleet.machine()
    async with AsyncExitStack() as stack:
        for _ in range(OPENING_AT_ONCE):
            await stack.enter_async_context(fleet.admission.turn())
        async with machine.session(fleet.mesh) as stream:
            assert (await stream.hear()).waiting.before == 1
            await stack.aclose()
            welcome = await stream.welcome()
            assert (await stream.beat(welcome)).HasField("lease_expires_at")


async def test_while_nodes_wait_at_the_door_nobody_is_taken_away(fleet: Fleet) -> None:
    machine, crowd, spans = await fleet.machine(), [True], list[timedelta]()

    def crowded(within: timedelta) -> bool:
        spans.append(within)
        return crowd[0]

    reaper = LeaseReaper(fleet.liveness, fleet.clock, fleet.hints, crowded)

    async def watch() -> None:
        for _ in range(17):
            await reaper.step()
            fleet.clock.advance(SECOND)

    async with machine.session(fleet.mesh) as stream:
        await stream.welcome()
        await fleet.pass_time(LEASE + SECOND)
        await watch()
        assert (await fleet.node(machine.node_id)).status is NodeStatus.ONLINE
        crowd[0] = False
        await watch()
        assert (await fleet.node(machine.node_id)).status is NodeStatus.OFFLINE
    # What was before the last look was minded then, or a storm would hold back for two leases.
    assert max(spans) <= SECOND


async def test_while_nodes_wait_at_another_controllers_door_nobody_is_taken_away_here(fleet: Fleet) -> None:
    machine, crowd = await fleet.machine(), [True]
    here, there = Hints(), Hints()
    there.tell_others = here.hear
    reaper = LeaseReaper(fleet.liveness, fleet.clock, here)
    neighbour = LeaseReaper(fleet.liveness, fleet.clock, there, lambda _: crowd[0])

    async def watch() -> None:
        for _ in range(17):
            await neighbour.step()
            await reaper.step()
            fleet.clock.advance(SECOND)

    async with machine.session(fleet.mesh) as stream:
        await stream.welcome()
        await fleet.pass_time(LEASE + SECOND)
        await watch()
        assert (await fleet.node(machine.node_id)).status is NodeStatus.ONLINE
        crowd[0] = False
        await watch()
        assert (await fleet.node(machine.node_id)).status is NodeStatus.OFFLINE


async def _is(condition: bool) -> bool:
    return condition
