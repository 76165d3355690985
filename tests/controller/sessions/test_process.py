"""The controller as a process takes a node in: token, certificate, session."""

from pathlib import Path

from aiops.iam.v1 import auth_service_pb2 as auth_pb
from aiops.iam.v1.auth_service_pb2_grpc import AuthServiceStub
from aiops.nodes.v1 import node_pb2
from aiops.nodes.v1 import node_service_pb2 as pb
from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

from mesh.rpc.channel import open_channel
from tests.fakes.agent import join
from tests.fixtures.controller_process import ADMIN_EMAIL, ADMIN_PASSWORD, RunningController


async def test_a_machine_joins_and_is_online(controller_process: RunningController, tmp_path: Path) -> None:
    async with open_channel(controller_process.api) as channel:
        login = auth_pb.LoginRequest(email=ADMIN_EMAIL, password=ADMIN_PASSWORD)
        tokens = (await AuthServiceStub(channel).Login(login)).tokens
        metadata = (("authorization", f"Bearer {tokens.access_token}"),)
        nodes = NodeServiceStub(channel)
        invited = await nodes.RegisterNode(pb.RegisterNodeRequest(name="gpu-1"), metadata=metadata)
        assert invited.join_url == f"https://{controller_process.join}"
        machine = await join(invited, controller_process.join, tmp_path / "node")
        async with machine.session(controller_process.mesh) as stream:
            welcome = await stream.welcome()
            await stream.beat(welcome)
            listed = await nodes.ListNodes(pb.ListNodesRequest(), metadata=metadata)
    assert [(node.name, node.status) for node in listed.nodes] == [("gpu-1", node_pb2.Node.online)]
