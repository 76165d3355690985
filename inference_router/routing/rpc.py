"""Serves the routing table."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from aiops.routing.v1 import routing_service_pb2 as pb
from aiops.routing.v1.routing_service_pb2_grpc import RoutingServiceServicer

from inference_router.routing.convert import TableMessages
from inference_router.routing.service import Routing
from mesh.rpc.context import Context


class RoutingServicer(RoutingServiceServicer):
    """What the gateway calls."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing

    async def WatchRoutingTable(
        self, request: pb.WatchRoutingTableRequest, context: Context
    ) -> AsyncIterator[pb.WatchRoutingTableResponse]:
        messages, changes = TableMessages(), False
        async with aclosing(self._routing.watch()) as tables:
            async for table in tables:
                yield messages.change(table) if changes else pb.WatchRoutingTableResponse(table=messages.whole(table))
                changes = request.changes
