"""Only a node's newest session has a say, however and whenever the older ones end."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from aiops.nodes.v1 import node_session_service_pb2 as pb

from controller.nodes.heartbeats import Beat
from controller.nodes.model import Gauges, NodeId, NodeStatus, SessionSupersededError
from controller.sessions.convert import hello_from_proto
from controller.sessions.registry import SessionRegistry
from mesh.loops import Wake
from tests.fakes.agent import AgentStream, Machine, hello
from tests.fakes.black_hole import black_hole
from tests.fakes.eventually import eventually
from tests.fixtures.fleet import Fleet
from tests.fixtures.iam import refusal

FOUND_WITHIN_S = 5.0
NODE = NodeId("node-1")


async def assert_commandable(fleet: Fleet, machine: Machine, stream: AgentStream) -> None:
    """The stream hears of changes and of questions for logs."""
    node_id = NodeId(machine.node_id)
    revision = await fleet.workloads.want(node_id, "workload-1")
    fleet.hints.node_changed(node_id)
    assert (await stream.hear()).desired_state.revision == revision
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(fleet.registry.request_logs(node_id, "workload-1", 0, 1))
        request = (await stream.hear()).log_request
        await stream.say(log_page=pb.LogPage(request_id=request.request_id, content=b"x"))
    assert asked.result().content == b"x"


async def test_a_newer_session_ends_the_older_one(fleet: Fleet) -> None:
    machine = await fleet.machine()
    async with machine.session(fleet.mesh) as old:
        assert (await old.welcome()).session_epoch == 1
        async with machine.session(fleet.mesh) as new:
            assert (await new.welcome()).session_epoch == 2
            error = await refusal(old.hear())
            assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "SESSION_SUPERSEDED")
            await assert_commandable(fleet, machine, new)


async def test_a_node_that_reconnects_before_its_old_socket_dies_stays_commandable(fleet: Fleet) -> None:
    machine = await fleet.machine()
    async with black_hole(fleet.mesh) as relay, machine.session(relay.address) as old:
        await old.welcome()
        relay.freeze()
        async with machine.session(fleet.mesh) as new:
            welcome = await new.welcome()
            # The old socket's death reaches the server only now, after the new session is open.
            assert (await refusal(old.hear())).code is grpc.StatusCode.UNAVAILABLE
            await new.beat(welcome)
            assert (await fleet.node(machine.node_id)).websocket_connected
            await assert_commandable(fleet, machine, new)


async def test_a_black_holed_agent_is_found_in_under_five_seconds(fleet: Fleet) -> None:
    machine = await fleet.machine()
    async with black_hole(fleet.mesh) as relay, machine.session(relay.address) as stream:
        await stream.welcome()

        async def disconnected() -> bool:
            return not (await fleet.node(machine.node_id)).websocket_connected

        relay.freeze()
        await eventually(disconnected, FOUND_WITHIN_S)
        assert (await fleet.node(machine.node_id)).status is NodeStatus.ONLINE


async def test_a_heartbeat_of_another_session_is_refused(fleet: Fleet) -> None:
    machine = await fleet.machine()
    async with machine.session(fleet.mesh) as stream:
        welcome = await stream.welcome()
        welcome.session_epoch -= 1
        assert (await refusal(stream.beat(welcome))).reason == "SESSION_SUPERSEDED"


async def test_a_controller_that_lost_the_node_to_another_is_fenced_by_the_database(fleet: Fleet) -> None:
    """Two controllers share the rows but not the registry: the one with the older session must not write."""
    machine = await fleet.machine()
    async with machine.session(fleet.mesh) as stream:
        welcome = await stream.welcome()
        greeting = hello_from_proto(hello(machine.node_id)).greeting
        elsewhere = await fleet.liveness.open_session(NodeId(machine.node_id), greeting)
        assert elsewhere.session_epoch == welcome.session_epoch + 1
        assert (await refusal(stream.beat(welcome))).reason == "SESSION_SUPERSEDED"
    node = await fleet.node(machine.node_id)
    assert (node.websocket_connected, node.session_epoch) == (True, elsewhere.session_epoch)


async def test_an_older_session_cannot_write_close_or_answer(fleet: Fleet) -> None:
    machine = await fleet.machine()
    node_id = NodeId(machine.node_id)
    async with machine.session(fleet.mesh) as stream:
        await stream.welcome()
        with pytest.raises(SessionSupersededError):
            await fleet.liveness.heartbeat(Beat(node_id, 0, Gauges(), (), 0, tell=False))
        with pytest.raises(SessionSupersededError):
            await fleet.liveness.acknowledge(node_id, 0, "request-1", accepted=True, cause="")
        await fleet.liveness.close_session(node_id, 0, "too late")
        assert (await fleet.node(node_id)).websocket_connected
    assert not await fleet.told("system.node.commandAck")


def test_an_old_sessions_end_does_not_remove_the_newer_one() -> None:
    registry = SessionRegistry()
    with registry.holding(NODE, 2, Wake()) as new:
        with pytest.raises(SessionSupersededError), registry.holding(NODE, 1, Wake()):
            pass
        new.check()


def test_sessions_that_end_in_any_order_leave_the_newest() -> None:
    registry = SessionRegistry()
    old = registry.holding(NODE, 1, Wake())
    first = old.__enter__()
    with registry.holding(NODE, 2, Wake()) as new:
        old.__exit__(None, None, None)
        new.check()
        with pytest.raises(SessionSupersededError):
            first.check()
        assert registry.open_epoch(NODE) == 2
    assert registry.open_epoch(NODE) is None


async def test_a_short_session_ends_without_an_event_and_a_lasting_one_with(fleet: Fleet) -> None:
    machine = await fleet.machine()

    async def disconnected() -> bool:
        return not (await fleet.node(machine.node_id)).websocket_connected

    async with machine.session(fleet.mesh) as stream:
        await stream.welcome()
    await eventually(disconnected)
    assert not await fleet.told("system.node.disconnect")
    async with machine.session(fleet.mesh) as stream:
        await stream.welcome()
        await fleet.pass_time(timedelta(seconds=6))
    await eventually(disconnected)
    assert len(await fleet.told("system.node.disconnect")) == 1
