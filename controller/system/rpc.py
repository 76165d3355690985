"""The servicer of the platform as a whole."""

from aiops.system.v1 import system_service_pb2 as pb
from aiops.system.v1.system_service_pb2_grpc import SystemServiceServicer

from controller.system.convert import health_to_proto, stats_to_proto
from controller.system.service import System
from mesh.rpc.context import Context, caller


class SystemServicer(SystemServiceServicer):
    """Health, numbers and announcements."""

    def __init__(self, system: System) -> None:
        self._system = system

    async def GetHealth(self, request: pb.GetHealthRequest, context: Context) -> pb.GetHealthResponse:
        return health_to_proto(await self._system.health())

    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:
        return stats_to_proto(await self._system.stats(caller(context)))

    async def Broadcast(self, request: pb.BroadcastRequest, context: Context) -> pb.BroadcastResponse:
        await self._system.broadcast(caller(context), request.message, request.severity, request.request_id)
        return pb.BroadcastResponse()
