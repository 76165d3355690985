"""The servicers of quotas: for people, and for gateways."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from aiops.quotas.v1 import quota_service_pb2 as pb
from aiops.quotas.v1.quota_service_pb2_grpc import QuotaServiceServicer, SpentQuotaServiceServicer

from controller.quotas.convert import (
    change_from_proto,
    limits_from_proto,
    quota_to_proto,
    spent_to_proto,
    subject_from_proto,
)
from controller.quotas.service import Quotas
from controller.quotas.spent import SpentFeed
from mesh.rpc.context import Context, caller
from mesh.sql.paging import PageRequest


class QuotaServicer(QuotaServiceServicer):
    """How much may be used."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    async def ListQuotas(self, request: pb.ListQuotasRequest, context: Context) -> pb.ListQuotasResponse:
        page = await self._quotas.page(caller(context), PageRequest(request.page_size, request.page_token))
        return pb.ListQuotasResponse(quotas=map(quota_to_proto, page.items), next_page_token=page.next_token)

    async def GetQuota(self, request: pb.GetQuotaRequest, context: Context) -> pb.GetQuotaResponse:
        quota, used = await self._quotas.get(caller(context), request.quota_id)
        return pb.GetQuotaResponse(quota=quota_to_proto(quota, used))

    async def CreateQuota(self, request: pb.CreateQuotaRequest, context: Context) -> pb.CreateQuotaResponse:
        made = await self._quotas.create(
            caller(context),
            subject=subject_from_proto(request.subject),
            subject_id=request.subject_id,
            model=request.model,
            limits=limits_from_proto(request.limits),
            request_id=request.request_id,
        )
        return pb.CreateQuotaResponse(quota=quota_to_proto(made))

    async def UpdateQuota(self, request: pb.UpdateQuotaRequest, context: Context) -> pb.UpdateQuotaResponse:
        change = change_from_proto(request)
        after = await self._quotas.update(caller(context), request.quota_id, change, request.version)
        return pb.UpdateQuotaResponse(quota=quota_to_proto(after))

    async def DeleteQuota(self, request: pb.DeleteQuotaRequest, context: Context) -> pb.DeleteQuotaResponse:
        gone = await self._quotas.delete(caller(context), request.quota_id)
        return pb.DeleteQuotaResponse(quota=quota_to_proto(gone))


class SpentQuotaServicer(SpentQuotaServiceServicer):
    """Whom gateways refuse."""

    def __init__(self, feed: SpentFeed) -> None:
        self._feed = feed

    async def WatchSpentQuotas(
        self, request: pb.WatchSpentQuotasRequest, context: Context
    ) -> AsyncIterator[pb.WatchSpentQuotasResponse]:
        async with aclosing(self._feed.watch()) as states:
            async for state in states:
                yield pb.WatchSpentQuotasResponse(spent=map(spent_to_proto, state))
