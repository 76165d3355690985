"""Answers the controller's questions for a workload's log, a page at a time."""

import asyncio

from aiops.nodes.v1 import node_session_service_pb2 as pb

from node_agent.runtime.output import read_page
from node_agent.session.convert import is_plain_id
from node_agent.workloads.model import WorkloadId
from node_agent.workloads.service import Workloads

DEFAULT_BYTES = 64 * 1024
LARGEST_BYTES = 256 * 1024


async def answer(request: pb.LogRequest, workloads: Workloads) -> pb.LogPage:
    """The page that was asked for, or why there is none."""
    path = workloads.log_path(WorkloadId(request.workload_id)) if is_plain_id(request.workload_id) else None
    if path is None:
        return pb.LogPage(
            request_id=request.request_id,
            workload_id=request.workload_id,
            end=True,
            error=f"workload {request.workload_id} has no log on this node",
        )
    limit = min(request.limit_bytes or DEFAULT_BYTES, LARGEST_BYTES)
    page = await asyncio.to_thread(read_page, path, request.offset, limit)
    return pb.LogPage(
        request_id=request.request_id,
        workload_id=request.workload_id,
        content=page.content,
        offset=page.offset,
        next_offset=page.next_offset,
        end=page.end,
    )
