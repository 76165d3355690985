"""Tells the controller what Envoys refused, so that people hear of it."""

import logging
from collections import deque
from datetime import timedelta

import grpc
from aiops.routing.v1 import alert_service_pb2 as pb
from aiops.routing.v1.alert_service_pb2_grpc import RoutingAlertServiceStub

from mesh.loops import Backoff, Wake
from mesh.rpc.addresses import Addresses
from mesh.rpc.channel import ClientTls, open_channel

log = logging.getLogger(__name__)
RETRY = Backoff(first=timedelta(milliseconds=200), limit=timedelta(seconds=5))
CALL_TIMEOUT_S = 5.0
# The reason comes last, behind the whole resource.
LONGEST = 2000


class Alerts:
    """Refusals that are still to be told; of many that come while the controller is away, the newest are kept."""

    def __init__(self, controllers: Addresses, tls: ClientTls) -> None:
        self._controllers, self._tls = controllers, tls
        self._waiting: deque[pb.ReportRefusalRequest] = deque(maxlen=100)
        self._failures = 0
        self.wake = Wake()

    def refused(self, kind: str, message: str) -> None:
        """An Envoy refused resources of a type and keeps what it had."""
        subject = f"Envoy configuration of type {kind.rpartition('.')[2]}"
        self._waiting.append(pb.ReportRefusalRequest(subject=subject, reason=message[-LONGEST:]))
        self.wake.set()

    async def step(self) -> timedelta | None:
        """Tells what waits; answers how long to wait before the next try, None when nothing is left."""
        while self._waiting:
            try:
                async with open_channel(self._controllers.now, self._tls) as channel:
                    await RoutingAlertServiceStub(channel).ReportRefusal(self._waiting[0], timeout=CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                self._failures += 1
                self._controllers.turn()
                log.warning("a refusal could not be told to the controller: %s", error.details())
                return RETRY.pause(self._failures)
            self._failures = 0
            self._waiting.popleft()
        return None
