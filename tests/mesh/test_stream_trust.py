"""A user's stream does not outlive their token."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import grpc
import jwt
import pytest
from aiops.deployments.v1 import deployment_service_pb2 as pb
from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceServicer, DeploymentServiceStub
from cryptography.hazmat.primitives.asymmetric import rsa

from mesh.rpc.authenticator import PeerAuthenticator, TokenAuthenticator
from mesh.rpc.channel import open_channel
from mesh.rpc.context import Context
from mesh.rpc.server import Listener, serve
from mesh.telemetry import Telemetry
from mesh.tokens import TokenTrust, TokenVerifier
from tests.fakes.clock import ManualClock
from tests.fixtures.iam import bearer, refusal

if TYPE_CHECKING:
    from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceAsyncStub

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
TRUST = TokenTrust({"key-1": KEY.public_key()})


class EndlessLogs(DeploymentServiceServicer):
    """Sends one line and then waits for another that never comes."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def FollowDeploymentLogs(  # noqa: N802 - the contract's name
        self, request: pb.FollowDeploymentLogsRequest, context: Context
    ) -> AsyncIterator[pb.FollowDeploymentLogsResponse]:
        try:
            yield pb.FollowDeploymentLogsResponse()
            await asyncio.Event().wait()
        finally:
            self.ended.set()


@pytest.fixture
def logs() -> EndlessLogs:
    return EndlessLogs()  # type: ignore[abstract]  # the other methods answer UNIMPLEMENTED


@asynccontextmanager
async def following(
    logs: EndlessLogs, verifier: TokenVerifier, clock: ManualClock, telemetry: Telemetry
) -> "AsyncIterator[grpc.aio.UnaryStreamCall[pb.FollowDeploymentLogsRequest, pb.FollowDeploymentLogsResponse]]":
    """A stream of logs after its first line."""
    authenticator = TokenAuthenticator(verifier, PeerAuthenticator(clock))
    async with (
        asyncio.timeout(10),
        serve([Listener("127.0.0.1:0")], [logs], authenticator, telemetry.rpc, grace=0) as server,
        open_channel(f"127.0.0.1:{server.ports[0]}") as channel,
    ):
        stub: DeploymentServiceAsyncStub = DeploymentServiceStub(channel)
        request = pb.FollowDeploymentLogsRequest(deployment_id="deployment-1")
        stream = stub.FollowDeploymentLogs(request, metadata=bearer(token(clock)))
        await stream.read()
        yield stream


async def test_a_stream_ends_when_the_token_is_revoked(logs: EndlessLogs, telemetry: Telemetry) -> None:
    clock = ManualClock()
    verifier = TokenVerifier(clock, TRUST)
    async with following(logs, verifier, clock, telemetry) as stream:
        verifier.trust(TokenTrust(TRUST.keys, frozenset({"token-1"})))
        refused = await refusal(stream.read())
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED")
        await logs.ended.wait()


async def test_a_stream_ends_when_the_token_expires(logs: EndlessLogs, telemetry: Telemetry) -> None:
    clock = ManualClock()
    async with following(logs, TokenVerifier(clock, TRUST), clock, telemetry) as stream:
        clock.advance(timedelta(minutes=17))
        assert (await refusal(stream.read())).reason == "UNAUTHENTICATED"


async def test_a_stream_that_its_client_leaves_ends(logs: EndlessLogs, telemetry: Telemetry) -> None:
    clock = ManualClock()
    async with following(logs, TokenVerifier(clock, TRUST), clock, telemetry) as stream:
        stream.cancel()
        await logs.ended.wait()


def token(clock: ManualClock) -> str:
    now = int(clock.now().timestamp())
    claims = {"iss": "aiops", "aud": "aiops", "typ": "access", "sub": "user-1", "org": "org-1", "jti": "token-1"}
    times = {"iat": now, "nbf": now, "exp": now + 900}
    roles = {"roles": ["organization.owner"]}
    return jwt.encode({**claims, **times, **roles}, KEY, algorithm="RS256", headers={"kid": "key-1"})
