"""Reaches a node through whichever controller holds its session."""

import asyncio
from collections.abc import Callable

import grpc
from aiops.nodes.v1 import node_log_service_pb2 as pb
from aiops.nodes.v1.node_log_service_pb2_grpc import NodeLogServiceStub

from controller.nodes.model import LogPage, NodeId, NodeUnreachableError
from controller.nodes.service import UnitOfWork
from controller.sessions.convert import log_page_from_proto
from controller.sessions.registry import SessionRegistry
from mesh.identity import SYSTEM
from mesh.names import SESSION_NAME
from mesh.rpc.channel import ClientTls, called, open_channel
from mesh.rpc.status import error_from_rpc

# Longer than the holder waits for its node.
PATIENCE_S = 12.0


class SessionHolders:
    """Logs of nodes, from the session here or from the controller that the node's row names.

    `own` is the address that this controller gives itself in those rows; `tls` makes what it shows to others.
    """

    def __init__(
        self, unit_of_work: UnitOfWork, registry: SessionRegistry, own: str, tls: Callable[[], ClientTls]
    ) -> None:
        self._unit_of_work, self._registry, self._own, self._tls = unit_of_work, registry, own, tls

    async def request_logs(self, node_id: NodeId, workload_id: str, offset: int, limit: int) -> LogPage:
        """A piece of a workload's log. NodeUnreachableError."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            node = await work.nodes.get(node_id, SYSTEM)
        holder = node.session_holder
        # The row is right where a session here is one that the node has left already.
        here = self._registry.open_epoch(node_id) == node.session_epoch
        if here or not holder or holder == self._own:
            return await self._registry.request_logs(node_id, workload_id, offset, limit)
        request = pb.ReadNodeLogRequest(node_id=node_id, workload_id=workload_id, offset=offset, limit_bytes=limit)
        tls = await asyncio.to_thread(self._tls)
        try:
            async with open_channel(holder, tls, options=called(SESSION_NAME)) as channel:
                answer = await NodeLogServiceStub(channel).ReadNodeLog(request, timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            why = error_from_rpc(error).message
            raise NodeUnreachableError(
                f"node {node_id} cannot be asked through the controller at {holder}: {why}", node_id=node_id
            ) from error
        return log_page_from_proto(answer.page)
