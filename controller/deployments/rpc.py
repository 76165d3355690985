"""The servicer of deployments."""

from collections.abc import AsyncIterator

from aiops.deployments.v1 import deployment_service_pb2 as pb
from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceServicer

from controller.deployments.adapters import Adapters
from controller.deployments.convert import (
    deployment_to_proto,
    plan_to_proto,
    status_from_proto,
    usage_to_proto,
    wish_from_proto,
)
from controller.deployments.logs import Logs
from controller.deployments.model import DeploymentId
from controller.deployments.service import Deployments
from controller.deployments.traffic import NONE
from mesh.identity import Caller
from mesh.rpc.context import Context, caller
from mesh.sharing import SharedReads
from mesh.sql.paging import PageRequest


class DeploymentServicer(DeploymentServiceServicer):
    """Running models."""

    def __init__(self, deployments: Deployments, adapters: Adapters, logs: Logs) -> None:
        self._deployments = deployments
        self._adapters = adapters
        self._logs = logs
        self._lists = SharedReads[pb.ListDeploymentsResponse]()

    async def ListDeployments(self, request: pb.ListDeploymentsRequest, context: Context) -> pb.ListDeploymentsResponse:
        # As of models: those of one organisation that ask the same at once are answered by one read.
        who = caller(context)
        asked = ("*" if who.sees_all else who.org_id, request.SerializeToString(deterministic=True))
        return await self._lists.get(asked, lambda: self._list(who, request))

    async def GetDeployment(self, request: pb.GetDeploymentRequest, context: Context) -> pb.GetDeploymentResponse:
        deployment = await self._deployments.get(caller(context), DeploymentId(request.deployment_id))
        traffic = await self._deployments.traffic(caller(context), [deployment.deployment_id])
        shown = deployment_to_proto(deployment, traffic.get(deployment.deployment_id, NONE))
        return pb.GetDeploymentResponse(deployment=shown)

    async def CreateDeployment(
        self, request: pb.CreateDeploymentRequest, context: Context
    ) -> pb.CreateDeploymentResponse:
        deployment = await self._deployments.create(caller(context), wish_from_proto(request), request.request_id)
        return pb.CreateDeploymentResponse(deployment=deployment_to_proto(deployment))

    async def PlanDeployment(self, request: pb.PlanDeploymentRequest, context: Context) -> pb.PlanDeploymentResponse:
        wish = wish_from_proto(request)
        return plan_to_proto(await self._deployments.plan(caller(context), wish, request.adapters))

    async def StopDeployment(self, request: pb.StopDeploymentRequest, context: Context) -> pb.StopDeploymentResponse:
        deployment = await self._deployments.stop(caller(context), DeploymentId(request.deployment_id))
        return pb.StopDeploymentResponse(deployment=deployment_to_proto(deployment))

    async def LoadAdapter(self, request: pb.LoadAdapterRequest, context: Context) -> pb.LoadAdapterResponse:
        deployment_id = DeploymentId(request.deployment_id)
        deployment = await self._adapters.load(caller(context), deployment_id, request.model_id)
        return pb.LoadAdapterResponse(deployment=deployment_to_proto(deployment))

    async def UnloadAdapter(self, request: pb.UnloadAdapterRequest, context: Context) -> pb.UnloadAdapterResponse:
        deployment_id = DeploymentId(request.deployment_id)
        deployment = await self._adapters.unload(caller(context), deployment_id, request.model_id)
        return pb.UnloadAdapterResponse(deployment=deployment_to_proto(deployment))

    async def GetDeploymentLogs(
        self, request: pb.GetDeploymentLogsRequest, context: Context
    ) -> pb.GetDeploymentLogsResponse:
        deployment_id = DeploymentId(request.deployment_id)
        log = await self._logs.page(caller(context), deployment_id, request.lines, request.page_token)
        return pb.GetDeploymentLogsResponse(logs=log.text, next_page_token=log.next_token, end=log.end)

    async def FollowDeploymentLogs(
        self, request: pb.FollowDeploymentLogsRequest, context: Context
    ) -> AsyncIterator[pb.FollowDeploymentLogsResponse]:
        deployment_id = DeploymentId(request.deployment_id)
        async for text in self._logs.follow(caller(context), deployment_id, request.lines):
            yield pb.FollowDeploymentLogsResponse(logs=text)

    async def GetDeploymentMetrics(
        self, request: pb.GetDeploymentMetricsRequest, context: Context
    ) -> pb.GetDeploymentMetricsResponse:
        usage = await self._deployments.usage(caller(context), DeploymentId(request.deployment_id))
        traffic = await self._deployments.traffic(caller(context), [usage.deployment_id])
        return pb.GetDeploymentMetricsResponse(metrics=usage_to_proto(usage, traffic.get(usage.deployment_id, NONE)))

    async def _list(self, who: Caller, request: pb.ListDeploymentsRequest) -> pb.ListDeploymentsResponse:
        asked, status = PageRequest(request.page_size, request.page_token), status_from_proto(request.status)
        page = await self._deployments.page(who, asked, status, request.model_id, request.node_id)
        traffic = await self._deployments.traffic(who, [each.deployment_id for each in page.items])
        shown = [deployment_to_proto(each, traffic.get(each.deployment_id, NONE)) for each in page.items]
        return pb.ListDeploymentsResponse(deployments=shown, next_page_token=page.next_token)
