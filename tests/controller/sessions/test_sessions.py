"""An agent's session: hello, welcome, desired state by revision, heartbeats, statuses, logs."""

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from aiops.nodes.v1 import node_pb2, node_service_pb2
from aiops.nodes.v1 import node_session_service_pb2 as pb

from controller.deployments.workload import Goal, WorkloadState
from controller.nodes.model import NodeId, NodeStatus, NodeUnreachableError
from tests.fakes.agent import Machine, hello
from tests.fixtures.fleet import OWNER, Fleet
from tests.fixtures.iam import refusal

DECIDED = pb.AdoptionDecision


async def test_hello_is_answered_with_the_whole_desired_state_and_the_node_is_online(fleet: Fleet) -> None:
    machine = await fleet.machine()
    revision = await fleet.workloads.want(NodeId(machine.node_id), "workload-1")
    async with machine.session(fleet.mesh) as stream:
        welcome = await stream.welcome()
        node = (
            await fleet.nodes.GetNode(node_service_pb2.GetNodeRequest(node_id=machine.node_id), metadata=OWNER)
        ).node
    assert (welcome.session_epoch, welcome.lease_seconds, welcome.heartbeat_seconds) == (1, 15, 5)
    assert (welcome.desired_state.revision, welcome.desired_state.snapshot) == (revision, True)
    assert [each.workload_id for each in welcome.desired_state.workloads] == ["workload-1"]
    assert (node.status, node.websocket_connected, node.vpn_ip) == (node_pb2.Node.online, True, "127.0.0.1")
    assert [device.model for device in node.gpu_devices] == ["Tesla P40"]
    assert (node.cpu_cores, node.ram_total, node.disk_free, list(node.engines)) == (8, 32000, 50000, ["transformers"])
    assert [event["gpuCount"] for event in await fleet.told("system.node.online")] == [1]
    registered = await fleet.told("system.node.register")
    assert [len(event["gpuDevices"]) for event in registered] == [0, 1]


async def test_an_operators_address_goes_before_the_agents(fleet: Fleet) -> None:
    machine = await fleet.machine()
    async with machine.session(fleet.mesh) as stream:
        await stream.welcome()
        update = node_service_pb2.UpdateNodeRequest(
            node_id=machine.node_id, node=node_service_pb2.NodeUpdate(vpn_ip="10.8.0.7")
        )
        await fleet.nodes.UpdateNode(update, metadata=OWNER)
    assert (await fleet.node(machine.node_id)).address == "10.8.0.7"


async def test_changes_arrive_as_deltas_without_being_asked_for(fleet: Fleet) -> None:
    machine = await fleet.machine()
    node_id = NodeId(machine.node_id)
    async with machine.session(fleet.mesh) as stream:
        welcome = await stream.welcome()
        await fleet.workloads.want(node_id, "workload-1")
        fleet.hints.node_changed(node_id)
        first = (await stream.hear()).desired_state
        await fleet.workloads.want(node_id, "workload-2", goal=Goal.END)
        fleet.hints.node_changed(node_id)
        second = (await stream.hear()).desired_state
    assert (first.snapshot, first.base_revision) == (False, welcome.desired_state.revision)
    assert (second.base_revision, second.revision) == (first.revision, first.revision + 1)
    assert [(each.workload_id, each.goal) for each in second.workloads] == [("workload-2", pb.WorkloadSpec.end)]


async def test_a_lost_hint_is_made_up_for_by_the_next_heartbeat(fleet: Fleet) -> None:
    machine = await fleet.machine()
    async with machine.session(fleet.mesh) as stream:
        welcome = await stream.welcome()
        revision = await fleet.workloads.want(NodeId(machine.node_id), "workload-1")
        await stream.say(heartbeat=pb.Heartbeat(session_epoch=welcome.session_epoch))
        assert (await stream.hear()).desired_state.revision == revision
        assert (await stream.hear()).heartbeat_ack.revision == revision


async def test_a_gap_is_closed_by_a_snapshot(fleet: Fleet) -> None:
    machine = await fleet.machine()
    revision = await fleet.workloads.want(NodeId(machine.node_id), "workload-1")
    async with machine.session(fleet.mesh) as stream:
        await stream.welcome()
        await stream.say(snapshot_request=pb.SnapshotRequest(last_revision=0))
        state = (await stream.hear()).desired_state
    assert (state.snapshot, state.revision, len(state.workloads)) == (True, revision, 1)


async def test_a_returning_node_is_merged_workload_by_workload(fleet: Fleet) -> None:
    machine = await fleet.machine()
    node_id = NodeId(machine.node_id)
    await fleet.workloads.want(node_id, "kept", epoch=2)
    await fleet.workloads.want(node_id, "moved", epoch=3)
    await fleet.workloads.want(node_id, "ended", goal=Goal.END)
    running = [("kept", 2), ("moved", 2), ("ended", 1), ("unknown", 1), ("kept", 9)]
    statuses = [
        pb.WorkloadStatus(workload_id=name, epoch=epoch, state=pb.WorkloadStatus.running) for name, epoch in running
    ]
    async with machine.session(fleet.mesh, hello(machine.node_id, workloads=statuses)) as stream:
        decisions = (await stream.welcome()).decisions
    assert [(each.workload_id, each.epoch, each.decision) for each in decisions] == [
        ("kept", 2, DECIDED.adopt),
        ("moved", 2, DECIDED.stop),
        ("ended", 1, DECIDED.stop),
        ("unknown", 1, DECIDED.stop),
        ("kept", 9, DECIDED.stop),
    ]
    assert {report.session_epoch for report in fleet.workloads.reports} == {1}


async def test_a_heartbeat_renews_the_lease_and_keeps_the_reading(fleet: Fleet) -> None:
    machine = await fleet.machine()
    container = node_pb2.Container(container_id="4711", workload_id="workload-1", pid=4711, memory_mb=512)
    metrics = node_pb2.NodeMetrics(cpu_utilization=12.5, ram_total=32000, ram_free=8000, disk_free=40000)
    async with machine.session(fleet.mesh) as stream:
        welcome = await stream.welcome()
        ack = await stream.beat(welcome, metrics=metrics, containers=[container], applied_revision=0)
    left = ack.lease_expires_at.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(seconds=13) < left <= timedelta(seconds=15)
    asked = node_service_pb2.GetNodeMetricsRequest(node_id=machine.node_id)
    read = (await fleet.nodes.GetNodeMetrics(asked, metadata=OWNER)).metrics
    assert (read.cpu_utilization, read.ram_free, read.disk_free) == (12.5, 8000, 40000)
    assert read.HasField("measured_at")
    listed = await fleet.nodes.ListContainers(
        node_service_pb2.ListContainersRequest(node_id=machine.node_id), metadata=OWNER
    )
    assert list(listed.containers) == [container]


async def test_containers_come_in_pages_and_go_when_the_agent_no_longer_names_them(fleet: Fleet) -> None:
    machine = await fleet.machine()
    containers = [node_pb2.Container(container_id=f"c{number}") for number in range(5)]
    asked = node_service_pb2.ListContainersRequest(node_id=machine.node_id, page_size=2)
    seen: list[str] = []
    async with machine.session(fleet.mesh) as stream:
        welcome = await stream.welcome()
        await stream.beat(welcome, containers=containers)
        page = await fleet.nodes.ListContainers(asked, metadata=OWNER)
        while page.next_page_token:
            seen += [each.container_id for each in page.containers]
            asked.page_token = page.next_page_token
            page = await fleet.nodes.ListContainers(asked, metadata=OWNER)
        seen += [each.container_id for each in page.containers]
        await stream.beat(welcome, containers=containers[:1])
    everything = node_service_pb2.ListContainersRequest(node_id=machine.node_id)
    assert sorted(seen) == ["c0", "c1", "c2", "c3", "c4"]
    assert len((await fleet.nodes.ListContainers(everything, metadata=OWNER)).containers) == 1


async def test_a_heartbeat_becomes_an_event_only_every_thirty_seconds(fleet: Fleet) -> None:
    machine = await fleet.machine()
    metrics = node_pb2.NodeMetrics(ram_free=8000)
    async with machine.session(fleet.mesh) as stream:
        welcome = await stream.welcome()
        for _ in range(7):
            fleet.clock.advance(timedelta(seconds=5))
            await stream.beat(welcome, metrics=metrics)
    assert [event["metrics"]["ramFree"] for event in await fleet.told("system.node.heartbeat")] == [8000]


async def test_a_status_is_stored_before_it_is_acknowledged(fleet: Fleet) -> None:
    machine = await fleet.machine()
    status = pb.WorkloadStatus(
        workload_id="workload-1",
        epoch=1,
        state=pb.WorkloadStatus.failed,
        progress=250,
        sequence=7,
        event="oom",
        exit_code=137,
    )
    async with machine.session(fleet.mesh) as stream:
        welcome = await stream.welcome()
        await stream.say(workload_status=status)
        assert (await stream.hear()).status_ack.sequence == 7
    (report,) = fleet.workloads.reports
    assert (report.node_id, report.session_epoch) == (machine.node_id, welcome.session_epoch)
    assert (report.state, report.progress, report.event, report.exit_code) == (WorkloadState.FAILED, 100, "oom", 137)


async def test_an_answer_to_a_command_is_told(fleet: Fleet) -> None:
    machine = await fleet.machine()
    async with machine.session(fleet.mesh) as stream:
        welcome = await stream.welcome()
        await stream.say(command_ack=pb.CommandAck(request_id="request-1", status=pb.CommandAck.accepted))
        await stream.beat(welcome)
    (event,) = await fleet.told("system.node.commandAck")
    assert (event["requestId"], event["nodeId"], event["status"]) == ("request-1", machine.node_id, "accepted")


async def test_logs_are_read_through_the_session(fleet: Fleet) -> None:
    machine = await fleet.machine()
    async with machine.session(fleet.mesh) as stream, asyncio.TaskGroup() as group:
        await stream.welcome()
        asked = group.create_task(fleet.registry.request_logs(NodeId(machine.node_id), "workload-1", -10, 4096))
        request = (await stream.hear()).log_request
        page = pb.LogPage(request_id=request.request_id, content=b"ready\n", offset=4, next_offset=10, end=True)
        await stream.say(log_page=page)
    assert (request.workload_id, request.offset, request.limit_bytes) == ("workload-1", -10, 4096)
    answer = asked.result()
    assert (answer.content, answer.offset, answer.next_offset, answer.end) == (b"ready\n", 4, 10, True)


async def test_logs_of_a_node_without_a_session_are_unreachable(fleet: Fleet) -> None:
    with pytest.raises(NodeUnreachableError):
        await fleet.registry.request_logs(NodeId("node-1"), "workload-1", 0, 1)


async def test_a_reader_of_logs_is_told_when_the_session_ends(fleet: Fleet) -> None:
    machine = await fleet.machine()

    async def read() -> None:
        with pytest.raises(NodeUnreachableError):
            await fleet.registry.request_logs(NodeId(machine.node_id), "workload-1", 0, 1)

    async with asyncio.TaskGroup() as group, machine.session(fleet.mesh) as stream:
        await stream.welcome()
        group.create_task(read())
        await stream.hear()


@pytest.mark.parametrize(
    "first",
    [pb.ConnectRequest(), pb.ConnectRequest(heartbeat=pb.Heartbeat(session_epoch=1))],
    ids=["nothing", "heartbeat"],
)
async def test_a_session_begins_with_hello(fleet: Fleet, first: pb.ConnectRequest) -> None:
    machine = await fleet.machine()
    async with machine.stub(fleet.mesh) as stub:
        call = stub.Connect()
        await call.write(first)
        error = await refusal(call.read())
    assert (error.code, [each.field for each in error.violations]) == (grpc.StatusCode.INVALID_ARGUMENT, ["hello"])


async def test_a_certificate_speaks_for_its_own_node_only(fleet: Fleet) -> None:
    one, two = await fleet.machine("gpu-1"), await fleet.machine("gpu-2")
    async with one.session(fleet.mesh, hello(two.node_id)) as stream:
        error = await refusal(stream.hear())
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NODE_MISMATCH")
    assert (await fleet.node(two.node_id)).session_epoch == 0


@pytest.mark.parametrize("address", ["http://10.0.0.1/", "10.0.0.1 evil", "a/../b", "-x"])
async def test_an_address_that_is_none_is_refused(fleet: Fleet, address: str) -> None:
    machine = await fleet.machine()
    async with machine.session(fleet.mesh, hello(machine.node_id, address=address)) as stream:
        assert (await refusal(stream.hear())).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_strange_texts_and_numbers_of_an_agent_do_no_harm(fleet: Fleet) -> None:
    machine = await fleet.machine()
    first = hello(machine.node_id, boot_id="\x00" * 10 + "b" * 5000, engines=["e"] * 1000)
    first.inventory.cpu_cores = 2**32 - 1
    metrics = node_pb2.NodeMetrics(cpu_utilization=float("nan"), ram_total=2**32 - 1)
    container = node_pb2.Container(container_id="c", epoch=2**64 - 1, cpu_percent=float("inf"))
    async with machine.session(fleet.mesh, first) as stream:
        welcome = await stream.welcome()
        await stream.beat(welcome, metrics=metrics, containers=[container, container], applied_revision=2**64 - 1)
    node = await fleet.node(machine.node_id)
    assert (len(node.boot_id), len(node.engines), node.gauges.cpu_utilization) == (1024, 32, 0.0)


async def test_a_node_in_maintenance_stays_in_it_over_a_new_session(fleet: Fleet) -> None:
    machine = await fleet.machine()
    entering = node_service_pb2.EnterMaintenanceRequest(node_id=machine.node_id)
    async with machine.session(fleet.mesh) as stream:
        await stream.welcome()
        assert (await fleet.nodes.EnterMaintenance(entering, metadata=OWNER)).node.status == node_pb2.Node.maintenance
        await fleet.nodes.EnterMaintenance(entering, metadata=OWNER)
    async with machine.session(fleet.mesh) as stream:
        await stream.welcome()
        assert (await fleet.node(machine.node_id)).status is NodeStatus.MAINTENANCE
        leaving = node_service_pb2.ExitMaintenanceRequest(node_id=machine.node_id)
        assert (await fleet.nodes.ExitMaintenance(leaving, metadata=OWNER)).node.status == node_pb2.Node.online
    assert [event["maintenance"] for event in await fleet.told("system.node.maintenance")] == [True, False]


async def test_removing_a_node_ends_its_session_at_once(fleet: Fleet) -> None:
    machine = await fleet.machine()
    async with machine.session(fleet.mesh) as stream:
        await stream.welcome()
        await fleet.nodes.DeleteNode(node_service_pb2.DeleteNodeRequest(node_id=machine.node_id), metadata=OWNER)
        error = await refusal(stream.hear())
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NODE_REMOVED")


async def connect_all(fleet: Fleet, machines: list[Machine]) -> None:
    async def connect(machine: Machine) -> None:
        async with machine.session(fleet.mesh) as stream:
            await stream.beat(await stream.welcome())

    await asyncio.gather(*(connect(machine) for machine in machines))


async def test_a_fleet_that_returns_at_once_is_let_in(fleet: Fleet) -> None:
    machines = [await fleet.machine(f"gpu-{number}") for number in range(12)]
    async with asyncio.timeout(30):
        await connect_all(fleet, machines)
    assert len(await fleet.told("system.node.online")) == 12
