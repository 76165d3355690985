"""Another organisation's node does not exist, whichever method asks for it; the methods come from the contract."""

import grpc
import pytest
from aiops.nodes.v1 import node_service_pb2 as pb
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from tests.fakes.callers import user
from tests.fixtures.fleet import OWNER, STRANGER, Fleet
from tests.fixtures.iam import refusal

METHODS = [
    method
    for method in pb.DESCRIPTOR.services_by_name["NodeService"].methods
    if "node_id" in method.input_type.fields_by_name
]


def test_the_contract_has_methods_that_take_a_node() -> None:
    assert len(METHODS) >= 8


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_a_foreign_node_is_not_found(fleet: Fleet, method: MethodDescriptor) -> None:
    node_id = (await fleet.register()).node.node_id
    request = GetMessageClass(method.input_type)(node_id=node_id)
    if "node" in method.input_type.fields_by_name:
        request = pb.UpdateNodeRequest(node_id=node_id, node=pb.NodeUpdate(name="taken over"))
    error = await refusal(getattr(fleet.nodes, method.name)(request, metadata=STRANGER))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "NODE_NOT_FOUND")
    assert (await fleet.nodes.GetNode(pb.GetNodeRequest(node_id=node_id), metadata=OWNER)).node.name == "gpu-1"


async def test_lists_show_only_the_callers_organisation_but_universe_roles_see_all(fleet: Fleet) -> None:
    await fleet.register()
    assert not (await fleet.nodes.ListNodes(pb.ListNodesRequest(), metadata=STRANGER)).nodes
    universe = user("org-2", "universe.viewer")
    assert len((await fleet.nodes.ListNodes(pb.ListNodesRequest(), metadata=universe)).nodes) == 1


async def test_a_request_id_of_another_organisation_answers_no_foreign_node(fleet: Fleet) -> None:
    first = await fleet.register(request_id="r1")
    request = pb.RegisterNodeRequest(name="gpu-1", request_id="r1")
    second = await fleet.nodes.RegisterNode(request, metadata=STRANGER)
    assert first.node.node_id != second.node.node_id


async def test_a_page_token_opens_no_other_organisation(fleet: Fleet) -> None:
    for number in range(3):
        await fleet.register(f"gpu-{number}")
    page = await fleet.nodes.ListNodes(pb.ListNodesRequest(page_size=1), metadata=OWNER)
    stolen = pb.ListNodesRequest(page_size=1, page_token=page.next_page_token)
    assert not (await fleet.nodes.ListNodes(stolen, metadata=STRANGER)).nodes
