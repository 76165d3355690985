"""The servicer of loads, for gateways."""

from datetime import timedelta

from aiops.routing.v1 import load_service_pb2 as pb
from aiops.routing.v1.load_service_pb2_grpc import LoadServiceServicer

from controller.autoscaling.model import SetLoad
from controller.autoscaling.service import Loads
from mesh.rpc.context import Context


class LoadServicer(LoadServiceServicer):
    """What gateways call."""

    def __init__(self, loads: Loads) -> None:
        self._loads = loads

    async def ReportLoad(self, request: pb.ReportLoadRequest, context: Context) -> pb.ReportLoadResponse:
        await self._loads.report(request.reporter, [_load(each) for each in request.loads])
        return pb.ReportLoadResponse()


def _load(message: pb.SetLoad) -> SetLoad:
    idle = timedelta(seconds=min(message.idle_seconds, 1e9))
    return SetLoad(message.replica_set_id, message.in_flight, message.held, idle)
