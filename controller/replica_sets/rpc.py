"""The servicer of replica sets."""

from aiops.deployments.v1 import replica_set_service_pb2 as pb
from aiops.deployments.v1.replica_set_service_pb2_grpc import ReplicaSetServiceServicer

from controller.replica_sets.convert import (
    autoscaling_from_proto,
    changes_from_proto,
    deadline_from_proto,
    replica_set_to_proto,
    template_from_proto,
)
from controller.replica_sets.service import ReplicaSets
from mesh.rpc.context import Context, caller
from mesh.sql.paging import PageRequest


class ReplicaSetServicer(ReplicaSetServiceServicer):
    """Models that are served by so many replicas."""

    def __init__(self, sets: ReplicaSets) -> None:
        self._sets = sets

    async def ListReplicaSets(self, request: pb.ListReplicaSetsRequest, context: Context) -> pb.ListReplicaSetsResponse:
        asked = PageRequest(request.page_size, request.page_token)
        page = await self._sets.page(caller(context), asked, request.model_id)
        return pb.ListReplicaSetsResponse(
            replica_sets=map(replica_set_to_proto, page.items), next_page_token=page.next_token
        )

    async def GetReplicaSet(self, request: pb.GetReplicaSetRequest, context: Context) -> pb.GetReplicaSetResponse:
        found = await self._sets.get(caller(context), request.replica_set_id)
        return pb.GetReplicaSetResponse(replica_set=replica_set_to_proto(found))

    async def CreateReplicaSet(
        self, request: pb.CreateReplicaSetRequest, context: Context
    ) -> pb.CreateReplicaSetResponse:
        made = await self._sets.create(
            caller(context),
            request.model_id,
            request.replicas,
            request.name,
            template_from_proto(request.template),
            deadline_from_proto(request.progress_deadline_seconds),
            request.request_id,
            autoscaling_from_proto(request),
        )
        return pb.CreateReplicaSetResponse(replica_set=replica_set_to_proto(made))

    async def UpdateReplicaSet(
        self, request: pb.UpdateReplicaSetRequest, context: Context
    ) -> pb.UpdateReplicaSetResponse:
        after = await self._sets.update(caller(context), request.replica_set_id, changes_from_proto(request))
        return pb.UpdateReplicaSetResponse(replica_set=replica_set_to_proto(after))

    async def DeleteReplicaSet(
        self, request: pb.DeleteReplicaSetRequest, context: Context
    ) -> pb.DeleteReplicaSetResponse:
        after = await self._sets.delete(caller(context), request.replica_set_id)
        return pb.DeleteReplicaSetResponse(replica_set=replica_set_to_proto(after))

    async def PauseRollout(self, request: pb.PauseRolloutRequest, context: Context) -> pb.PauseRolloutResponse:
        after = await self._sets.pause(caller(context), request.replica_set_id)
        return pb.PauseRolloutResponse(replica_set=replica_set_to_proto(after))

    async def ResumeRollout(self, request: pb.ResumeRolloutRequest, context: Context) -> pb.ResumeRolloutResponse:
        after = await self._sets.resume(caller(context), request.replica_set_id)
        return pb.ResumeRolloutResponse(replica_set=replica_set_to_proto(after))

    async def RollBack(self, request: pb.RollBackRequest, context: Context) -> pb.RollBackResponse:
        after = await self._sets.roll_back(caller(context), request.replica_set_id, request.revision)
        return pb.RollBackResponse(replica_set=replica_set_to_proto(after))
