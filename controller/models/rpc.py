"""The servicer of the model registry."""

from collections.abc import AsyncIterator

from aiops.models.v1 import model_service_pb2 as pb
from aiops.models.v1.model_service_pb2_grpc import ModelServiceServicer

from controller.models.convert import (
    chunks_from_proto,
    file_to_proto,
    framework_from_proto,
    model_to_proto,
    revision_to_proto,
    task_from_proto,
    upload_from_proto,
)
from controller.models.download import DownloadId
from controller.models.download_convert import download_to_proto, state_from_proto, wanted_from_proto
from controller.models.downloads import Downloads
from controller.models.service import Models
from mesh.identity import Caller
from mesh.rpc.context import Context, caller
from mesh.sharing import SharedReads
from mesh.sql.paging import LARGEST_PAGE, PageRequest


class ModelServicer(ModelServiceServicer):
    """The model registry."""

    def __init__(self, models: Models, downloads: Downloads) -> None:
        self._models = models
        self._downloads = downloads
        self._lists = SharedReads[pb.ListModelsResponse]()

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        # Every client lists models; those of one organisation that ask the same at once are answered by one read.
        who = caller(context)
        asked = ("*" if who.sees_all else who.org_id, request.SerializeToString(deterministic=True))
        return await self._lists.get(asked, lambda: self._list(who, request))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=model_to_proto(await self._models.get(caller(context), request.model_id)))

    async def ListModelFiles(self, request: pb.ListModelFilesRequest, context: Context) -> pb.ListModelFilesResponse:
        asked = PageRequest(request.page_size or LARGEST_PAGE, request.page_token)
        page = await self._models.files(caller(context), request.model_id, request.revision, asked)
        return pb.ListModelFilesResponse(files=map(file_to_proto, page.items), next_page_token=page.next_token)

    async def ListModelRevisions(
        self, request: pb.ListModelRevisionsRequest, context: Context
    ) -> pb.ListModelRevisionsResponse:
        asked = PageRequest(request.page_size, request.page_token)
        model, page = await self._models.revisions(caller(context), request.model_id, asked)
        shown = [revision_to_proto(each, model) for each in page.items]
        return pb.ListModelRevisionsResponse(revisions=shown, next_page_token=page.next_token)

    async def RollbackModel(self, request: pb.RollbackModelRequest, context: Context) -> pb.RollbackModelResponse:
        model = await self._models.roll_back(caller(context), request.model_id, request.revision)
        return pb.RollbackModelResponse(model=model_to_proto(model))

    async def ImportModel(
        self, request_iterator: AsyncIterator[pb.ImportModelRequest], context: Context
    ) -> pb.ImportModelResponse:
        upload = await upload_from_proto(request_iterator)
        imported = await self._models.import_model(caller(context), upload, chunks_from_proto(request_iterator))
        return pb.ImportModelResponse(model=model_to_proto(imported.model), existed=imported.existed)

    async def DownloadModel(self, request: pb.DownloadModelRequest, context: Context) -> pb.DownloadModelResponse:
        wanted = wanted_from_proto(request)
        download = await self._downloads.begin(caller(context), wanted, request.request_id)
        return pb.DownloadModelResponse(download=download_to_proto(download))

    async def ListModelDownloads(
        self, request: pb.ListModelDownloadsRequest, context: Context
    ) -> pb.ListModelDownloadsResponse:
        asked = PageRequest(request.page_size, request.page_token)
        page = await self._downloads.page(caller(context), asked, state_from_proto(request.state))
        return pb.ListModelDownloadsResponse(
            downloads=map(download_to_proto, page.items), next_page_token=page.next_token
        )

    async def GetModelDownload(
        self, request: pb.GetModelDownloadRequest, context: Context
    ) -> pb.GetModelDownloadResponse:
        download = await self._downloads.get(caller(context), DownloadId(request.download_id))
        return pb.GetModelDownloadResponse(download=download_to_proto(download))

    async def CancelModelDownload(
        self, request: pb.CancelModelDownloadRequest, context: Context
    ) -> pb.CancelModelDownloadResponse:
        download = await self._downloads.cancel(caller(context), DownloadId(request.download_id))
        return pb.CancelModelDownloadResponse(download=download_to_proto(download))

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> pb.DeleteModelResponse:
        await self._models.delete(caller(context), request.model_id)
        return pb.DeleteModelResponse()

    async def _list(self, who: Caller, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        framework, task = framework_from_proto(request.framework), task_from_proto(request.task)
        page = await self._models.page(who, PageRequest(request.page_size, request.page_token), framework, task)
        return pb.ListModelsResponse(models=map(model_to_proto, page.items), next_page_token=page.next_token)
