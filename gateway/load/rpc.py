"""Envoy's load reporting service: how many requests each Envoy works on, by cluster and endpoint, every second."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
from envoy.service.load_stats.v3 import lrs_pb2, lrs_pb2_grpc

from gateway.load.tally import Tally

EVERY = timedelta(seconds=1)


class LoadReportingServicer(lrs_pb2_grpc.LoadReportingServiceServicer):  # type: ignore[misc]
    """Asks each Envoy for the clusters that matter, and hears what it says."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    async def StreamLoadStats(
        self, requests: AsyncIterator[lrs_pb2.LoadStatsRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[lrs_pb2.LoadStatsResponse]:
        envoy, heard = object(), asyncio.Event()
        self._tally.connected(envoy)
        reader = asyncio.ensure_future(self._hear(envoy, requests, heard))
        asked: tuple[str, ...] | None = None
        try:
            while not reader.done():
                if asked != self._tally.clusters:
                    asked = self._tally.clusters
                    yield _question(asked)
                # An Envoy speaks every second, which is soon enough to ask it for others.
                await heard.wait()
                heard.clear()
        finally:
            reader.cancel()
            self._tally.gone(envoy)

    async def _hear(
        self, envoy: object, requests: AsyncIterator[lrs_pb2.LoadStatsRequest], heard: asyncio.Event
    ) -> None:
        try:
            first = True
            async for request in requests:
                # The first one only says who it is.
                if not first:
                    self._tally.heard(envoy, request.cluster_stats)
                first = False
                heard.set()
        finally:
            heard.set()


def _question(clusters: tuple[str, ...]) -> lrs_pb2.LoadStatsResponse:
    response = lrs_pb2.LoadStatsResponse(clusters=clusters, report_endpoint_granularity=True)
    response.load_reporting_interval.FromTimedelta(EVERY)
    return response
