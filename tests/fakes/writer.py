"""A service whose one call writes an event, with the trace that it belongs to."""

from dataclasses import replace
from typing import Any

from aiops.system.v1 import system_service_pb2 as pb
from aiops.system.v1.system_service_pb2_grpc import SystemServiceServicer

from mesh.errors import UnimplementedError
from mesh.events.outbox import append
from mesh.identity import SYSTEM
from mesh.sql.database import Database
from mesh.telemetry import current_traceparent
from tests.mesh.events.records import envelope


class Writer(SystemServiceServicer):
    """Writes one event for each call of GetHealth."""

    def __init__(self, database: Database, topic: str) -> None:
        self._database = database
        self._topic = topic

    async def GetHealth(self, request: pb.GetHealthRequest, context: Any) -> pb.GetHealthResponse:
        event = replace(envelope(self._topic, "a", 1), traceparent=current_traceparent())
        async with self._database.writing(SYSTEM) as connection:
            await append(connection, event)
            await connection.commit()
        return pb.GetHealthResponse()

    async def GetStats(self, request: pb.GetStatsRequest, context: Any) -> pb.GetStatsResponse:
        raise UnimplementedError("not here")

    async def Broadcast(self, request: pb.BroadcastRequest, context: Any) -> pb.BroadcastResponse:
        raise UnimplementedError("not here")
