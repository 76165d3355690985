"""Files and batches as protobuf messages."""

from collections.abc import AsyncIterator

from aiops.batches.v1 import batch_pb2, file_pb2
from aiops.batches.v1 import file_service_pb2 as files_pb
from aiops.types.v1 import owner_pb2

from controller.batches.model import Batch, File, Purpose
from mesh.errors import FieldViolation, InvalidRequestError

_MOMENTS = ("created_at", "expires_at", "in_progress_at", "finalizing_at", "cancelling_at", "ended_at")


def file_to_proto(file: File) -> file_pb2.File:
    """A file."""
    message = file_pb2.File(
        file_id=file.file_id,
        owner=owner_pb2.Owner(org_id=file.org_id, user_id=file.user_id),
        filename=file.filename,
        purpose=file_pb2.File.Purpose.Value(file.purpose.value),
        size_bytes=file.size_bytes,
    )
    message.created_at.FromDatetime(file.created_at)
    return message


def purpose_from_proto(purpose: "file_pb2.File.Purpose.ValueType") -> Purpose | None:
    """None for none."""
    return Purpose(file_pb2.File.Purpose.Name(purpose)) if purpose else None


def batch_to_proto(batch: Batch) -> batch_pb2.Batch:
    """A batch."""
    message = batch_pb2.Batch(
        batch_id=batch.batch_id,
        owner=owner_pb2.Owner(org_id=batch.org_id, user_id=batch.user_id),
        endpoint=batch.endpoint,
        input_file_id=batch.input_file_id,
        completion_window=batch.completion_window,
        status=batch_pb2.Batch.Status.Value(batch.status.value),
        errors=[
            batch_pb2.Batch.Error(code=fault.code, message=fault.message, param=fault.param, line=fault.line)
            for fault in batch.faults
        ],
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        counts=batch_pb2.Batch.Counts(total=batch.total, completed=batch.completed, failed=batch.failed),
        metadata=batch.metadata,
    )
    for name in _MOMENTS:
        if (moment := getattr(batch, name)) is not None:
            getattr(message, name).FromDatetime(moment)
    return message


async def header_from_proto(requests: AsyncIterator[files_pb.UploadFileRequest]) -> files_pb.UploadFileRequest.Header:
    """The first message's header. InvalidRequestError without one."""
    first = await anext(requests, None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidRequestError(FieldViolation("header", "the first message has to be the header"))
    return first.header


async def chunks_from_proto(requests: AsyncIterator[files_pb.UploadFileRequest]) -> AsyncIterator[bytes]:
    """The bytes of the messages after the header."""
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidRequestError(FieldViolation("chunk", "only bytes follow the header"))
        if request.chunk:
            yield request.chunk
