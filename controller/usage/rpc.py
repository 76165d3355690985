"""The servicer of the ledger."""

from aiops.usage.v1 import usage_service_pb2 as pb
from aiops.usage.v1.usage_service_pb2_grpc import UsageServiceServicer

from controller.usage.convert import filter_from_proto, groups_from_proto, record_to_proto, sum_to_proto
from controller.usage.engine_convert import day_to_proto, days_from_proto
from controller.usage.service import UsageLedger
from mesh.rpc.context import Context, caller
from mesh.sql.paging import PageRequest


class UsageServicer(UsageServiceServicer):
    """What requests used."""

    def __init__(self, ledger: UsageLedger) -> None:
        self._ledger = ledger

    async def ListUsage(self, request: pb.ListUsageRequest, context: Context) -> pb.ListUsageResponse:
        asked = PageRequest(request.page_size, request.page_token)
        wanted, groups = filter_from_proto(request.filter), groups_from_proto(request)
        page = await self._ledger.sums(caller(context), wanted, groups, asked)
        return pb.ListUsageResponse(sums=map(sum_to_proto, page.items), next_page_token=page.next_token)

    async def ListUsageRecords(
        self, request: pb.ListUsageRecordsRequest, context: Context
    ) -> pb.ListUsageRecordsResponse:
        asked = PageRequest(request.page_size, request.page_token)
        page = await self._ledger.records(caller(context), filter_from_proto(request.filter), asked)
        return pb.ListUsageRecordsResponse(records=map(record_to_proto, page.items), next_page_token=page.next_token)

    async def ListReconciliation(
        self, request: pb.ListReconciliationRequest, context: Context
    ) -> pb.ListReconciliationResponse:
        asked = PageRequest(request.page_size, request.page_token)
        page = await self._ledger.reconciled(caller(context), days_from_proto(request), asked)
        return pb.ListReconciliationResponse(days=map(day_to_proto, page.items), next_page_token=page.next_token)
