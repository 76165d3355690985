"""A peer that is gone without a word is found in under five seconds, from both ends."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from aiops.iam.v1 import auth_service_pb2, auth_service_pb2_grpc

from mesh.identity import Caller, CallerKind
from mesh.rpc.call import PeerCertificate
from mesh.rpc.channel import open_channel
from mesh.rpc.context import Context
from mesh.rpc.server import Listener, serve
from mesh.settings import Observability
from mesh.telemetry import start_telemetry
from tests.fakes.black_hole import black_hole

FOUND_WITHIN_S = 5.0


class AnyService:
    """Takes every caller for a service."""

    async def authenticate(self, metadata: dict[str, str], peer: PeerCertificate | None) -> Caller:
        return Caller(CallerKind.SERVICE, "anyone")


class Endless(auth_service_pb2_grpc.TokenTrustServiceServicer):
    """Answers once and then says nothing, until the client is gone."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def WatchTokenTrust(  # noqa: N802 - the contract's name
        self, request: auth_service_pb2.WatchTokenTrustRequest, context: Context
    ) -> AsyncIterator[auth_service_pb2.WatchTokenTrustResponse]:
        try:
            yield auth_service_pb2.WatchTokenTrustResponse()
            await asyncio.Event().wait()
        finally:
            self.gone.set()


async def test_both_ends_find_a_black_holed_peer() -> None:
    servicer = Endless()
    telemetry = start_telemetry("test", Observability(metrics_port=None))
    async with (
        serve([Listener("127.0.0.1:0")], [servicer], AnyService(), telemetry.rpc, grace=0.1) as server,
        black_hole(f"127.0.0.1:{server.ports[0]}") as relay,
        open_channel(relay.address) as channel,
    ):
        stream = auth_service_pb2_grpc.TokenTrustServiceStub(channel).WatchTokenTrust(
            auth_service_pb2.WatchTokenTrustRequest()
        )
        await stream.read()
        relay.freeze()
        async with asyncio.timeout(FOUND_WITHIN_S):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            await servicer.gone.wait()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    telemetry.shutdown()
