"""The servicers of files and of batches."""

from collections.abc import AsyncIterator

from aiops.batches.v1 import batch_service_pb2 as pb
from aiops.batches.v1 import file_service_pb2 as files_pb
from aiops.batches.v1.batch_service_pb2_grpc import BatchServiceServicer
from aiops.batches.v1.file_service_pb2_grpc import FileServiceServicer

from controller.batches.convert import (
    batch_to_proto,
    chunks_from_proto,
    file_to_proto,
    header_from_proto,
    purpose_from_proto,
)
from controller.batches.files import Files
from controller.batches.model import Purpose
from controller.batches.service import Batches
from mesh.rpc.context import Context, caller
from mesh.sql.paging import PageRequest


class FileServicer(FileServiceServicer):
    """Files of batches."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def UploadFile(
        self, request_iterator: AsyncIterator[files_pb.UploadFileRequest], context: Context
    ) -> files_pb.UploadFileResponse:
        header = await header_from_proto(request_iterator)
        purpose, content = purpose_from_proto(header.purpose) or Purpose.BATCH, chunks_from_proto(request_iterator)
        file = await self._files.upload(caller(context), header.filename, purpose, content)
        return files_pb.UploadFileResponse(file=file_to_proto(file))

    async def ListFiles(self, request: files_pb.ListFilesRequest, context: Context) -> files_pb.ListFilesResponse:
        asked = PageRequest(request.page_size, request.page_token)
        purpose = purpose_from_proto(request.purpose)
        page = await self._files.page(caller(context), asked, purpose, request.after)
        return files_pb.ListFilesResponse(files=map(file_to_proto, page.items), next_page_token=page.next_token)

    async def GetFile(self, request: files_pb.GetFileRequest, context: Context) -> files_pb.GetFileResponse:
        return files_pb.GetFileResponse(file=file_to_proto(await self._files.get(caller(context), request.file_id)))

    async def DeleteFile(self, request: files_pb.DeleteFileRequest, context: Context) -> files_pb.DeleteFileResponse:
        await self._files.delete(caller(context), request.file_id)
        return files_pb.DeleteFileResponse()

    async def DownloadFile(
        self, request: files_pb.DownloadFileRequest, context: Context
    ) -> AsyncIterator[files_pb.DownloadFileResponse]:
        async for piece in self._files.read(caller(context), request.file_id):
            yield files_pb.DownloadFileResponse(chunk=piece)


class BatchServicer(BatchServiceServicer):
    """Batches of requests."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    async def CreateBatch(self, request: pb.CreateBatchRequest, context: Context) -> pb.CreateBatchResponse:
        made = await self._batches.create(
            caller(context),
            input_file_id=request.input_file_id,
            endpoint=request.endpoint,
            window=request.completion_window,
            metadata=request.metadata,
            request_id=request.request_id,
        )
        return pb.CreateBatchResponse(batch=batch_to_proto(made))

    async def ListBatches(self, request: pb.ListBatchesRequest, context: Context) -> pb.ListBatchesResponse:
        asked = PageRequest(request.page_size, request.page_token)
        page = await self._batches.page(caller(context), asked, request.after)
        return pb.ListBatchesResponse(batches=map(batch_to_proto, page.items), next_page_token=page.next_token)

    async def GetBatch(self, request: pb.GetBatchRequest, context: Context) -> pb.GetBatchResponse:
        return pb.GetBatchResponse(batch=batch_to_proto(await self._batches.get(caller(context), request.batch_id)))

    async def CancelBatch(self, request: pb.CancelBatchRequest, context: Context) -> pb.CancelBatchResponse:
        after = await self._batches.cancel(caller(context), request.batch_id)
        return pb.CancelBatchResponse(batch=batch_to_proto(after))
