"""Calls to the controllers in the name of users; one that is away is waited for, or another one asked."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from aiops.conversations.v1 import conversation_service_pb2 as pb
from aiops.conversations.v1.conversation_service_pb2_grpc import ConversationServiceStub

from mesh.loops import Backoff
from mesh.rpc.addresses import PATIENCE, Addresses
from mesh.rpc.channel import open_channel
from mesh.rpc.status import error_from_rpc

if TYPE_CHECKING:
    from aiops.conversations.v1.conversation_service_pb2_grpc import ConversationServiceAsyncStub

Answer = TypeVar("Answer")
CALL_TIMEOUT_S = 10.0
# A controller that starts again is back within this time.
PATIENCE_S = 30.0
RETRY = Backoff(first=timedelta(milliseconds=50), limit=timedelta(milliseconds=500))
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)


class RefusedError(Exception):
    """What a controller said no to, or that none answers."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Controllers:
    """The controllers' API. Whatever is asked here may be asked again: messages and conversations have ids."""

    def __init__(self, addresses: Addresses, stack: AsyncExitStack) -> None:
        self._addresses = addresses
        self._stack = stack
        self._channels: dict[str, Any] = {}

    async def ask(self, token: str, call: "Callable[[ConversationServiceAsyncStub, Any], Awaitable[Answer]]") -> Answer:
        """The answer to a call with the user's token. RefusedError."""
        options = {"metadata": (("authorization", f"Bearer {token}"),), "timeout": CALL_TIMEOUT_S}
        failures, until = 0, time.monotonic() + PATIENCE_S
        while True:
            try:
                return await call(await self._stub(), options)
            except grpc.aio.AioRpcError as error:
                said = error_from_rpc(error)
                failures += 1
                if said.code not in AWAY:
                    raise RefusedError(said.reason or said.code.name, said.message) from error
                if time.monotonic() > until:
                    waited = f"no controller answered within {PATIENCE_S:g} s: {said.message}"
                    raise RefusedError("UNAVAILABLE", waited) from error
                self._addresses.turn()
                await asyncio.sleep(RETRY.pause(failures).total_seconds())

    async def entries(self, token: str, asked: pb.ListEntriesRequest) -> pb.ListEntriesResponse:
        """What came behind a position. RefusedError."""
        return await self.ask(token, lambda stub, options: stub.ListEntries(asked, **options))

    async def _stub(self) -> "ConversationServiceAsyncStub":
        address = self._addresses.now
        if address not in self._channels:
            self._channels[address] = await self._stack.enter_async_context(open_channel(address, options=PATIENCE))
        stub: ConversationServiceAsyncStub = ConversationServiceStub(self._channels[address])
        return stub
