"""Files, batches and errors in OpenAI's words."""

import grpc
from aiops.batches.v1.batch_pb2 import Batch
from aiops.batches.v1.file_pb2 import File
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.edge.errors import openai_error
from mesh.rpc.status import RemoteError

# google.rpc.Code's place in HTTP, and OpenAI's type of error.
_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, "invalid_request_error"),
    grpc.StatusCode.UNAUTHENTICATED: (401, "authentication_error"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "permission_error"),
    grpc.StatusCode.NOT_FOUND: (404, "invalid_request_error"),
    grpc.StatusCode.ALREADY_EXISTS: (409, "invalid_request_error"),
    grpc.StatusCode.FAILED_PRECONDITION: (409, "invalid_request_error"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "rate_limit_error"),
    grpc.StatusCode.UNAVAILABLE: (503, "server_error"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "server_error"),
}
_MOMENTS = ("in_progress", "finalizing", "cancelling")
_ENDS = ("completed", "failed", "expired", "cancelled")


def file_object(file: File) -> dict[str, object]:
    """`FileObject`."""
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.created_at.seconds,
        "expires_at": None,
        "filename": file.filename,
        "purpose": File.Purpose.Name(file.purpose),
        "status": "processed",
    }


def batch_object(batch: Batch) -> dict[str, object]:
    """`Batch`."""
    status, ended = Batch.Status.Name(batch.status), _seconds(batch.ended_at) if batch.HasField("ended_at") else None
    counts = {"total": batch.counts.total, "completed": batch.counts.completed, "failed": batch.counts.failed}
    faults = [
        {"code": each.code, "message": each.message, "param": each.param or None, "line": each.line or None}
        for each in batch.errors
    ]
    return {
        "id": batch.batch_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": faults} if faults else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": status,
        "output_file_id": batch.output_file_id or None,
        "error_file_id": batch.error_file_id or None,
        "created_at": batch.created_at.seconds,
        "expires_at": batch.expires_at.seconds,
        **{f"{name}_at": _seconds(getattr(batch, f"{name}_at")) for name in _MOMENTS},
        **{f"{name}_at": ended if name == status else None for name in _ENDS},
        "request_counts": counts,
        "metadata": dict(batch.metadata) or None,
    }


def listed(objects: list[dict[str, object]], *, more: bool) -> dict[str, object]:
    """A page of a list."""
    first, last = (objects[0]["id"], objects[-1]["id"]) if objects else (None, None)
    return {"object": "list", "data": objects, "first_id": first, "last_id": last, "has_more": more}


def refusal(error: RemoteError) -> tuple[int, dict[str, object]]:
    """The status and OpenAI's error object for what a service said."""
    status, kind = _STATUSES.get(error.code, (500, "server_error"))
    param = error.violations[0].field if error.violations else None
    return status, openai_error(error.message, (error.reason or error.code.name).lower(), param, kind)


def _seconds(moment: Timestamp) -> int | None:
    return moment.seconds or None
