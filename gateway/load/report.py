"""Tells the controller how busy replicas are: every second, and at once when a request waits for a model."""

import logging
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import uuid4

import grpc
from aiops.routing.v1 import load_service_pb2 as pb
from aiops.routing.v1.load_service_pb2_grpc import LoadServiceStub

from gateway.load.tally import Tally
from mesh.loops import Backoff
from mesh.rpc.addresses import Addresses
from mesh.rpc.channel import ClientTls, open_channel

log = logging.getLogger(__name__)
EVERY = timedelta(seconds=1)
RETRY = Backoff(first=timedelta(milliseconds=100), limit=timedelta(seconds=1))
CALL_TIMEOUT_S = 5.0


class Reporter:
    """Says what the tally has, to one controller after another until one hears it."""

    def __init__(self, controllers: Addresses, tls: ClientTls, tally: Tally) -> None:
        self._controllers, self._tls, self._tally = controllers, tls, tally
        self._name = f"gateway-{uuid4().hex}"
        self._connection = AsyncExitStack()
        self._channel: grpc.aio.Channel | None = None
        self._failures = 0

    async def step(self) -> timedelta:
        """Tells it once; answers how long to pause."""
        loads = self._tally.loads()
        if not loads:
            return EVERY
        try:
            request = pb.ReportLoadRequest(reporter=self._name, loads=loads)
            await LoadServiceStub(await self._connected()).ReportLoad(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return await self._failed(error)
        self._failures = 0
        return EVERY

    async def aclose(self) -> None:
        """Lets go of the controller."""
        await self._connection.aclose()

    async def _connected(self) -> grpc.aio.Channel:
        if self._channel is None:
            opened = open_channel(self._controllers.now, self._tls)
            self._channel = await self._connection.enter_async_context(opened)
        return self._channel

    async def _failed(self, error: grpc.aio.AioRpcError) -> timedelta:
        if self._failures == 0:
            log.warning("the load cannot be told to the controller: %s", error.details())
        self._failures += 1
        self._channel = None
        await self._connection.aclose()
        self._controllers.turn()
        return RETRY.pause(self._failures)
