"""The servicer of flags."""

from aiops.flags.v1 import flag_service_pb2 as pb
from aiops.flags.v1.flag_service_pb2_grpc import FlagServiceServicer

from controller.flags.convert import flag_to_proto, wish_from_proto
from controller.flags.service import Flags
from mesh.rpc.context import Context, caller
from mesh.sql.paging import PageRequest


class FlagServicer(FlagServiceServicer):
    """Switches of organisations."""

    def __init__(self, flags: Flags) -> None:
        self._flags = flags

    async def ListFlags(self, request: pb.ListFlagsRequest, context: Context) -> pb.ListFlagsResponse:
        page = await self._flags.page(caller(context), PageRequest(request.page_size, request.page_token))
        return pb.ListFlagsResponse(flags=map(flag_to_proto, page.items), next_page_token=page.next_token)

    async def SetFlag(self, request: pb.SetFlagRequest, context: Context) -> pb.SetFlagResponse:
        after = await self._flags.set(caller(context), wish_from_proto(request))
        return pb.SetFlagResponse(flag=flag_to_proto(after))

    async def DeleteFlag(self, request: pb.DeleteFlagRequest, context: Context) -> pb.DeleteFlagResponse:
        gone = await self._flags.delete(caller(context), request.name)
        return pb.DeleteFlagResponse(flag=flag_to_proto(gone))
