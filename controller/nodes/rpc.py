"""The servicers of the area."""

from aiops.nodes.v1 import node_service_pb2 as pb
from aiops.nodes.v1 import node_session_service_pb2 as session_pb
from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceServicer
from aiops.nodes.v1.node_session_service_pb2_grpc import NodeEnrollmentServiceServicer

from controller.nodes.convert import (
    changes_from_proto,
    container_to_proto,
    drain_to_proto,
    metrics_to_proto,
    node_to_proto,
    registration_from_proto,
    status_from_proto,
    timestamp,
)
from controller.nodes.enrolment import Enrolment
from controller.nodes.model import NodeId
from controller.nodes.service import Nodes
from mesh.rpc.context import Context, caller
from mesh.sql.paging import PageRequest


class NodeServicer(NodeServiceServicer):
    """The machines of the fleet."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    async def ListNodes(self, request: pb.ListNodesRequest, context: Context) -> pb.ListNodesResponse:
        asked = PageRequest(request.page_size, request.page_token)
        page = await self._nodes.page(caller(context), asked, status_from_proto(request.status))
        return pb.ListNodesResponse(nodes=[node_to_proto(each) for each in page.items], next_page_token=page.next_token)

    async def GetNode(self, request: pb.GetNodeRequest, context: Context) -> pb.GetNodeResponse:
        node = await self._nodes.get(caller(context), NodeId(request.node_id))
        return pb.GetNodeResponse(node=node_to_proto(node))

    async def RegisterNode(self, request: pb.RegisterNodeRequest, context: Context) -> pb.RegisterNodeResponse:
        node, invitation = await self._nodes.register(
            caller(context), registration_from_proto(request), request.request_id
        )
        return pb.RegisterNodeResponse(
            node=node_to_proto(node),
            join_token=invitation.token,
            join_token_expires_at=timestamp(invitation.expires_at),
            join_url=invitation.url,
        )

    async def CreateJoinToken(self, request: pb.CreateJoinTokenRequest, context: Context) -> pb.CreateJoinTokenResponse:
        invitation = await self._nodes.create_join_token(caller(context), NodeId(request.node_id))
        return pb.CreateJoinTokenResponse(
            join_token=invitation.token,
            join_token_expires_at=timestamp(invitation.expires_at),
            join_url=invitation.url,
        )

    async def UpdateNode(self, request: pb.UpdateNodeRequest, context: Context) -> pb.UpdateNodeResponse:
        node = await self._nodes.update(caller(context), NodeId(request.node_id), changes_from_proto(request))
        return pb.UpdateNodeResponse(node=node_to_proto(node))

    async def DeleteNode(self, request: pb.DeleteNodeRequest, context: Context) -> pb.DeleteNodeResponse:
        await self._nodes.delete(caller(context), NodeId(request.node_id), force=request.force)
        return pb.DeleteNodeResponse()

    async def EnterMaintenance(
        self, request: pb.EnterMaintenanceRequest, context: Context
    ) -> pb.EnterMaintenanceResponse:
        node = await self._nodes.enter_maintenance(caller(context), NodeId(request.node_id))
        return pb.EnterMaintenanceResponse(node=node_to_proto(node))

    async def DrainNode(self, request: pb.DrainNodeRequest, context: Context) -> pb.DrainNodeResponse:
        node, left = await self._nodes.drain(caller(context), NodeId(request.node_id))
        return drain_to_proto(node, left)

    async def ExitMaintenance(self, request: pb.ExitMaintenanceRequest, context: Context) -> pb.ExitMaintenanceResponse:
        node = await self._nodes.exit_maintenance(caller(context), NodeId(request.node_id))
        return pb.ExitMaintenanceResponse(node=node_to_proto(node))

    async def GetNodeMetrics(self, request: pb.GetNodeMetricsRequest, context: Context) -> pb.GetNodeMetricsResponse:
        node = await self._nodes.get(caller(context), NodeId(request.node_id))
        return pb.GetNodeMetricsResponse(metrics=metrics_to_proto(node))

    async def ListContainers(self, request: pb.ListContainersRequest, context: Context) -> pb.ListContainersResponse:
        asked = PageRequest(request.page_size, request.page_token)
        page = await self._nodes.containers(caller(context), NodeId(request.node_id), asked)
        shown = [container_to_proto(each) for each in page.items]
        return pb.ListContainersResponse(containers=shown, next_page_token=page.next_token)


class NodeEnrollmentServicer(NodeEnrollmentServiceServicer):
    """Where a machine becomes a node."""

    def __init__(self, enrolment: Enrolment) -> None:
        self._enrolment = enrolment

    async def Join(self, request: session_pb.JoinRequest, context: Context) -> session_pb.JoinResponse:
        enrolled = await self._enrolment.join(request.token, request.certificate_request)
        return session_pb.JoinResponse(
            node_id=enrolled.node_id,
            certificate=enrolled.certificate.pem.decode(),
            authority=enrolled.authority_pem.decode(),
            session_address=enrolled.session_address,
            expires_at=timestamp(enrolled.certificate.expires_at),
            tunnel_address=enrolled.tunnel_address,
        )
