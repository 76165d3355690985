"""Nodes tell which models they have, and the next replica goes where nothing must be fetched."""

from aiops.deployments.v1 import deployment_pb2
from aiops.deployments.v1 import deployment_service_pb2 as pb

from controller.distribution.service import Distribution
from controller.nodes.model import NodeId
from controller.sessions.convert import desired_to_proto
from node_agent.session.convert import desired_from_proto
from tests.controller.distribution.test_signing import Addresses
from tests.fixtures.registry import EDITOR, Rooms


async def planned(rooms: Rooms) -> deployment_pb2.Placement:
    answer = await rooms.deployments.PlanDeployment(pb.PlanDeploymentRequest(model_id="tiny"), metadata=EDITOR)
    return answer.placement


async def test_a_node_that_has_the_files_is_preferred_and_the_plan_says_so(rooms: Rooms) -> None:
    first, second = [await rooms.join("node-1"), await rooms.join("node-2")]
    model = await rooms.import_model("tiny")
    usual = NodeId((await planned(rooms)).node_id)
    other = second if usual == first else first
    distribution = Distribution(rooms.unit_of_work, rooms.workloads, Addresses())
    await distribution.keep_cached(other, [model.digest, "no digest", "\0"])
    placement = await planned(rooms)
    assert placement.node_id == other
    assert "its files are there" in placement.explanation
    await distribution.keep_cached(other, [])
    assert (await planned(rooms)).node_id == usual


async def test_a_node_names_what_it_has_as_the_registry_does(rooms: Rooms) -> None:
    node_id = await rooms.join("node-1")
    model = await rooms.import_model("tiny")
    await rooms.deploy()
    told = desired_to_proto(await rooms.workloads.desired(node_id, None)).desired_state
    (spec,) = desired_from_proto(told).workloads
    assert spec.artifact.digest == model.digest
