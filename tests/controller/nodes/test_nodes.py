"""Those who run the fleet register, read, change and remove its nodes."""

from datetime import UTC, datetime, timedelta

import grpc
import pytest
from aiops.nodes.v1 import node_pb2
from aiops.nodes.v1 import node_service_pb2 as pb

from controller.nodes.convert import changes_from_proto
from controller.nodes.model import NodeId
from mesh.errors import InvalidRequestError
from mesh.identity import SYSTEM
from tests.fakes.agent import open_token
from tests.fakes.callers import user
from tests.fixtures.fleet import ORG, OWNER, Fleet
from tests.fixtures.iam import refusal

VIEWER = user(ORG, "organization.viewer")


async def test_a_registered_node_is_listed_and_read(fleet: Fleet) -> None:
    config = node_pb2.NodeConfig(controller_endpoint="https://c:1", working_directory="/srv/aiops")
    answer = await fleet.register(
        role=["controller", "worker"], is_local=True, vpn_ip="10.8.0.2", config=config, labels={"rack": "a"}
    )
    assert answer.join_url == "https://127.0.0.1:7082"
    left = answer.join_token_expires_at.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)
    read = (await fleet.nodes.GetNode(pb.GetNodeRequest(node_id=answer.node.node_id), metadata=VIEWER)).node
    listed = await fleet.nodes.ListNodes(pb.ListNodesRequest(), metadata=VIEWER)
    assert [read] == list(listed.nodes) == [answer.node]
    assert (read.name, read.is_local, read.vpn_ip, dict(read.labels)) == ("gpu-1", True, "10.8.0.2", {"rack": "a"})
    assert list(read.role) == [node_pb2.Node.controller, node_pb2.Node.worker]
    assert (read.status, read.owner.org_id, read.config) == (node_pb2.Node.offline, ORG, config)
    assert [event["nodeId"] for event in await fleet.told("system.node.register")] == [read.node_id]


async def test_the_token_carries_the_authority_and_is_kept_as_a_hash(fleet: Fleet) -> None:
    answer = await fleet.register()
    secret, authority = open_token(answer.join_token)
    assert authority.encode() == fleet.authority.pem
    async with fleet.database.reading(SYSTEM) as connection:
        rows = (await connection.exec_driver_sql("SELECT token_hash FROM join_tokens")).scalars().all()
    assert len(rows) == 1
    assert secret not in rows[0]


async def test_a_repeated_registration_answers_the_same_node_with_a_fresh_token(fleet: Fleet) -> None:
    first, second = await fleet.register(request_id="r1"), await fleet.register(request_id="r1")
    assert first.node == second.node
    assert first.join_token != second.join_token
    error = await refusal(fleet.register(name="gpu-2", request_id="r1"))
    assert error.reason == "REQUEST_ID_REUSED"


async def test_a_name_is_taken_once_per_organisation(fleet: Fleet) -> None:
    await fleet.register()
    assert (await refusal(fleet.register())).reason == "NODE_EXISTS"
    request = pb.RegisterNodeRequest(name="gpu-1")
    await fleet.nodes.RegisterNode(request, metadata=user("org-2"))


async def test_pages_lead_through_all_nodes_newest_first(fleet: Fleet) -> None:
    registered = [(await fleet.register(f"gpu-{number}")).node.node_id for number in range(5)]
    seen: list[str] = []
    token = ""
    while True:
        page = await fleet.nodes.ListNodes(pb.ListNodesRequest(page_size=2, page_token=token), metadata=OWNER)
        seen += [node.node_id for node in page.nodes]
        token = page.next_page_token
        if not token:
            break
    assert seen == registered[::-1]
    filtered = pb.ListNodesRequest(page_size=2, page_token="nonsense", status=node_pb2.Node.offline)
    assert (await refusal(fleet.nodes.ListNodes(filtered, metadata=OWNER))).reason == "INVALID_PAGE_TOKEN"


async def test_a_list_is_filtered_by_status(fleet: Fleet) -> None:
    await fleet.register()
    offline = await fleet.nodes.ListNodes(pb.ListNodesRequest(status=node_pb2.Node.offline), metadata=OWNER)
    online = await fleet.nodes.ListNodes(pb.ListNodesRequest(status=node_pb2.Node.online), metadata=OWNER)
    assert (len(offline.nodes), len(online.nodes)) == (1, 0)


async def test_an_update_changes_what_its_mask_names(fleet: Fleet) -> None:
    node_id = (await fleet.register(labels={"rack": "a"})).node.node_id
    request = pb.UpdateNodeRequest(node_id=node_id, node=pb.NodeUpdate(name="renamed", vpn_ip="10.8.0.9"))
    request.update_mask.paths.extend(["name", "labels"])
    node = (await fleet.nodes.UpdateNode(request, metadata=OWNER)).node
    assert (node.name, node.vpn_ip, dict(node.labels)) == ("renamed", "", {})
    assert node.changed_at.ToDatetime() > node.created_at.ToDatetime()


async def test_an_update_without_a_mask_changes_what_is_set(fleet: Fleet) -> None:
    node_id = (await fleet.register(labels={"rack": "a"})).node.node_id
    config = node_pb2.NodeConfig(working_directory="/srv")
    request = pb.UpdateNodeRequest(node_id=node_id, node=pb.NodeUpdate(vpn_ip="10.8.0.9", config=config))
    node = (await fleet.nodes.UpdateNode(request, metadata=OWNER)).node
    assert (node.name, node.vpn_ip, dict(node.labels)) == ("gpu-1", "10.8.0.9", {"rack": "a"})
    assert node.config == node_pb2.NodeConfig(controller_endpoint="https://127.0.0.1:7082", working_directory="/srv")


@pytest.mark.parametrize("path", ["status", "owner.org_id", "node_id", "config.nothing"])
def test_paths_of_the_mask_that_name_nothing_changeable_are_refused(path: str) -> None:
    request = pb.UpdateNodeRequest(node_id="node-1", node=pb.NodeUpdate(name="x"))
    request.update_mask.paths.append(path)
    with pytest.raises(InvalidRequestError, match="no field to change"):
        changes_from_proto(request)


async def test_wrong_values_are_refused_by_field(fleet: Fleet) -> None:
    node_id = (await fleet.register()).node.node_id
    request = pb.UpdateNodeRequest(node_id=node_id, node=pb.NodeUpdate(vpn_ip="10.8.0.9:80/x"))
    error = await refusal(fleet.nodes.UpdateNode(request, metadata=OWNER))
    assert [violation.field for violation in error.violations] == ["node.vpn_ip"]
    request = pb.UpdateNodeRequest(node_id=node_id, node=pb.NodeUpdate())
    request.update_mask.paths.append("name")
    error = await refusal(fleet.nodes.UpdateNode(request, metadata=OWNER))
    assert [violation.field for violation in error.violations] == ["node.name"]
    for call in (
        fleet.register("gpu\x00"),
        fleet.register("gpu-2", labels={"rack": "\x00"}),
        fleet.register("gpu-3", request_id="\x00"),
    ):
        assert (await refusal(call)).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_node_in_use_is_removed_only_by_force(fleet: Fleet) -> None:
    machine = await fleet.machine()
    await fleet.workloads.want(NodeId(machine.node_id), "workload-1")
    error = await refusal(fleet.nodes.DeleteNode(pb.DeleteNodeRequest(node_id=machine.node_id), metadata=OWNER))
    assert (error.reason, error.metadata["deployments"]) == ("NODE_IN_USE", "1")
    await fleet.nodes.DeleteNode(pb.DeleteNodeRequest(node_id=machine.node_id, force=True), metadata=OWNER)
    assert (
        await refusal(fleet.nodes.GetNode(pb.GetNodeRequest(node_id=machine.node_id), metadata=OWNER))
    ).reason == "NODE_NOT_FOUND"
    assert not (await fleet.nodes.ListNodes(pb.ListNodesRequest(), metadata=OWNER)).nodes
    assert [event["removedBy"] for event in await fleet.told("system.node.removed")] == ["user-of-org-1"]
    assert (await fleet.register()).node.name == "gpu-1"


async def test_a_viewer_reads_and_changes_nothing(fleet: Fleet) -> None:
    node_id = (await fleet.register()).node.node_id
    await fleet.nodes.GetNodeMetrics(pb.GetNodeMetricsRequest(node_id=node_id), metadata=VIEWER)
    error = await refusal(fleet.nodes.DeleteNode(pb.DeleteNodeRequest(node_id=node_id), metadata=VIEWER))
    assert (error.code, error.metadata) == (grpc.StatusCode.PERMISSION_DENIED, {"permission": "register_nodes"})


async def test_an_offline_node_cannot_enter_maintenance_and_may_leave_it(fleet: Fleet) -> None:
    node_id = (await fleet.register()).node.node_id
    error = await refusal(fleet.nodes.EnterMaintenance(pb.EnterMaintenanceRequest(node_id=node_id), metadata=OWNER))
    assert error.reason == "NODE_OFFLINE"
    answer = await fleet.nodes.ExitMaintenance(pb.ExitMaintenanceRequest(node_id=node_id), metadata=OWNER)
    assert answer.node.status == node_pb2.Node.offline


async def test_a_drained_node_says_what_is_left_and_takes_nothing_until_it_is_taken_back(fleet: Fleet) -> None:
    machine = await fleet.machine()
    request = pb.DrainNodeRequest(node_id=machine.node_id)
    assert (await refusal(fleet.nodes.DrainNode(request, metadata=OWNER))).reason == "NODE_OFFLINE"
    async with machine.session(fleet.mesh) as stream:
        await stream.welcome()
        await fleet.workloads.want(NodeId(machine.node_id), "dep-1")
        for _ in range(2):
            answer = await fleet.nodes.DrainNode(request, metadata=OWNER)
            assert (answer.node.draining, answer.node.status, answer.drained) == (
                True,
                node_pb2.Node.maintenance,
                False,
            )
            assert [(each.deployment_id, each.status) for each in answer.left] == [("dep-1", "running")]
        resumed = await fleet.nodes.ExitMaintenance(pb.ExitMaintenanceRequest(node_id=machine.node_id), metadata=OWNER)
        assert (resumed.node.draining, resumed.node.status) == (False, node_pb2.Node.online)
    assert len(await fleet.told("system.node.maintenance")) == 2
