"""The aggregated discovery service: one delta stream per Envoy."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from gateway.xds.cache import Cache
from gateway.xds.metrics import Metrics
from gateway.xds.session import Session

log = logging.getLogger(__name__)
# How long a later type waits for an earlier one to be accepted.
PATIENCE = timedelta(seconds=2)


class DiscoveryServicer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Brings every connected Envoy up to the cache."""

    def __init__(self, cache: Cache, metrics: Metrics, tell: Callable[[str, str], None]) -> None:
        self._cache = cache
        self._tell = tell
        self._metrics = metrics

    async def DeltaAggregatedResources(
        self, requests: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[discovery_pb2.DeltaDiscoveryResponse]:
        session = Session(self._cache, self._refused)
        with self._cache.watch() as changed, self._metrics.connected():
            reader = asyncio.ensure_future(_read(requests, session, changed))
            try:
                while not reader.done():
                    while (response := session.next_push()) is not None:
                        self._metrics.pushed(response.type_url)
                        yield response
                    if not await _wait(changed, PATIENCE) and (late := session.next_push(patient=False)) is not None:
                        yield late
            finally:
                reader.cancel()

    def _refused(self, kind: str, message: str) -> None:
        # The reason comes last, behind the whole resource.
        log.error("an Envoy refused %s and keeps what it had: %s", kind, message[-2000:])
        self._metrics.refused(kind)
        self._tell(kind, message)


async def _read(
    requests: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest], session: Session, changed: asyncio.Event
) -> None:
    try:
        async for request in requests:
            session.receive(request)
            changed.set()
    finally:
        changed.set()


async def _wait(changed: asyncio.Event, at_most: timedelta) -> bool:
    try:
        async with asyncio.timeout(at_most.total_seconds()):
            await changed.wait()
    except TimeoutError:
        return False
    changed.clear()
    return True
