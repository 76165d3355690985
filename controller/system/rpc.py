"""The servicer of the platform itself."""

from aiops.system.v1 import system_service_pb2 as pb
from aiops.system.v1.system_service_pb2_grpc import SystemServiceServicer

from controller.system.convert import health_to_proto, stats_to_proto
from controller.system.service import System
from mesh.rpc.context import Context, caller


class SystemServicer(SystemServiceServicer):
    """The platform itself; `version` is what it says of itself."""

    def __init__(self, system: System, version: str) -> None:
        self._system = system
        self._version = version

    async def GetHealth(self, request: pb.GetHealthRequest, context: Context) -> pb.GetHealthResponse:
        return health_to_proto(await self._system.health(), self._version)

    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:
        return stats_to_proto(await self._system.stats(caller(context)))

    async def Broadcast(self, request: pb.BroadcastRequest, context: Context) -> pb.BroadcastResponse:
        await self._system.broadcast(caller(context), request.message, request.severity, request.request_id)
        return pb.BroadcastResponse()
