"""The servicer of rollouts."""

from aiops.routing.v1 import rollout_service_pb2 as pb
from aiops.routing.v1.rollout_service_pb2_grpc import RolloutServiceServicer

from controller.rollouts.convert import rollout_to_proto, spec_from_proto
from controller.rollouts.service import Rollouts
from mesh.rpc.context import Context, caller
from mesh.sql.paging import PageRequest


class RolloutServicer(RolloutServiceServicer):
    """Routes that go over to another target."""

    def __init__(self, rollouts: Rollouts) -> None:
        self._rollouts = rollouts

    async def ListRollouts(self, request: pb.ListRolloutsRequest, context: Context) -> pb.ListRolloutsResponse:
        asked = PageRequest(request.page_size, request.page_token)
        page = await self._rollouts.page(caller(context), asked, request.route_id)
        return pb.ListRolloutsResponse(rollouts=map(rollout_to_proto, page.items), next_page_token=page.next_token)

    async def GetRollout(self, request: pb.GetRolloutRequest, context: Context) -> pb.GetRolloutResponse:
        found, decisions = await self._rollouts.get(caller(context), request.rollout_id)
        return pb.GetRolloutResponse(rollout=rollout_to_proto(found, decisions))

    async def CreateRollout(self, request: pb.CreateRolloutRequest, context: Context) -> pb.CreateRolloutResponse:
        made = await self._rollouts.create(caller(context), spec_from_proto(request.spec), request.request_id)
        return pb.CreateRolloutResponse(rollout=rollout_to_proto(made))

    async def PauseRollout(self, request: pb.PauseRolloutRequest, context: Context) -> pb.PauseRolloutResponse:
        after = await self._rollouts.pause(caller(context), request.rollout_id)
        return pb.PauseRolloutResponse(rollout=rollout_to_proto(after))

    async def ResumeRollout(self, request: pb.ResumeRolloutRequest, context: Context) -> pb.ResumeRolloutResponse:
        after = await self._rollouts.resume(caller(context), request.rollout_id)
        return pb.ResumeRolloutResponse(rollout=rollout_to_proto(after))

    async def AbortRollout(self, request: pb.AbortRolloutRequest, context: Context) -> pb.AbortRolloutResponse:
        after = await self._rollouts.abort(caller(context), request.rollout_id, request.reason)
        return pb.AbortRolloutResponse(rollout=rollout_to_proto(after))
