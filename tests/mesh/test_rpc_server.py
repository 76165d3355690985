"""A server runs its layers in order and answers errors as google.rpc.Status."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from aiops.iam.v1 import auth_service_pb2, auth_service_pb2_grpc, user_service_pb2, user_service_pb2_grpc
from aiops.models.v1 import model_pb2, model_service_pb2, model_service_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.errors import NotFoundError, UnauthenticatedError
from mesh.identity import ANONYMOUS, Caller, CallerKind, OrgId, permissions_of
from mesh.rpc.call import PeerCertificate
from mesh.rpc.channel import open_channel
from mesh.rpc.context import Context, caller
from mesh.rpc.server import Listener, Server, serve
from mesh.rpc.status import RemoteError, error_from_rpc

VIEWER = frozenset({"organization.viewer"})


class Tokens:
    """Takes `viewer` for a viewer's token and refuses every other."""

    async def authenticate(self, metadata: dict[str, str], peer: PeerCertificate | None) -> Caller:
        token = metadata.get("authorization", "")
        if not token:
            return ANONYMOUS
        if token != "Bearer viewer":
            raise UnauthenticatedError("the token is not valid")
        return Caller(CallerKind.USER, "user-1", OrgId("org-1"), VIEWER, permissions_of(VIEWER))


class Calls:
    """Remembers the codes of finished calls."""

    def __init__(self) -> None:
        self.codes: list[grpc.StatusCode] = []

    def start(self, method: str, metadata: Mapping[str, str]) -> "Calls":
        return self

    def finish(self, code: grpc.StatusCode) -> None:
        self.codes.append(code)


class Auth(auth_service_pb2_grpc.AuthServiceServicer):
    """Answers, fails or hangs, as the e-mail address says."""

    async def Login(self, request: auth_service_pb2.LoginRequest, context: Context) -> auth_service_pb2.LoginResponse:  # noqa: N802 - the contract's name
        if request.email == "missing":
            raise NotFoundError("there is no such user", email=request.email)
        if request.email == "broken":
            raise ValueError("a secret inner text")
        if request.email == "slow":
            await asyncio.Event().wait()
        return auth_service_pb2.LoginResponse()


class Users(user_service_pb2_grpc.UserServiceServicer):
    """Says who calls."""

    async def GetMe(self, request: user_service_pb2.GetMeRequest, context: Context) -> user_service_pb2.GetMeResponse:  # noqa: N802 - the contract's name
        response = user_service_pb2.GetMeResponse()
        response.user.user_id = caller(context).user_id
        return response


class Trust(auth_service_pb2_grpc.TokenTrustServiceServicer):
    """A stream without an end."""


class Models(model_service_pb2_grpc.ModelServiceServicer):
    """Counts the chunks of an upload."""

    async def ImportModel(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[model_service_pb2.ImportModelRequest], context: Context
    ) -> model_service_pb2.ImportModelResponse:
        count = [message async for message in request_iterator]
        return model_service_pb2.ImportModelResponse(model=model_pb2.Model(size_mb=len(count)))


# The tests call what these implement and nothing else.
SERVICERS: list[Callable[[], object]] = [Auth, Users, Trust, Models]


@asynccontextmanager
async def running(calls: Calls) -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    servicers = [each() for each in SERVICERS]
    async with (
        serve([Listener("127.0.0.1:0")], servicers, Tokens(), calls, grace=0.2) as server,
        open_channel(f"127.0.0.1:{server.ports[0]}") as channel,
    ):
        yield server, channel


async def refusal(call: Any) -> RemoteError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value)


async def test_a_domain_error_arrives_with_reason_metadata_and_request_id() -> None:
    calls = Calls()
    async with running(calls) as (_, channel):
        stub = auth_service_pb2_grpc.AuthServiceStub(channel)
        request = auth_service_pb2.LoginRequest(email="missing", password="x")
        error = await refusal(stub.Login(request, metadata=(("x-request-id", "abc-1"),)))
    assert (error.code, error.reason, error.message) == (
        grpc.StatusCode.NOT_FOUND,
        "NOT_FOUND",
        "there is no such user",
    )
    assert error.metadata == {"email": "missing"}
    assert error.request_id == "abc-1"
    assert calls.codes == [grpc.StatusCode.NOT_FOUND]


async def test_an_unexpected_error_tells_nothing_of_the_inside() -> None:
    async with running(Calls()) as (_, channel):
        stub = auth_service_pb2_grpc.AuthServiceStub(channel)
        error = await refusal(stub.Login(auth_service_pb2.LoginRequest(email="broken", password="x")))
    assert error.code is grpc.StatusCode.INTERNAL
    assert "secret" not in error.message
    assert error.request_id in error.message


async def test_an_invalid_request_names_every_field() -> None:
    async with running(Calls()) as (_, channel):
        stub = auth_service_pb2_grpc.AuthServiceStub(channel)
        error = await refusal(stub.Login(auth_service_pb2.LoginRequest(email="x")))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in error.violations] == ["email", "password"]


async def test_bytes_that_are_no_message_are_an_invalid_request() -> None:
    async with running(Calls()) as (_, channel):
        call: Any = channel.unary_unary("/aiops.iam.v1.AuthService/Login")
        error = await refusal(call(b"\xff\xff\xff"))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_a_deadline_ends_the_call_with_a_status() -> None:
    calls = Calls()
    async with running(calls) as (_, channel):
        stub = auth_service_pb2_grpc.AuthServiceStub(channel)
        error = await refusal(stub.Login(auth_service_pb2.LoginRequest(email="slow", password="x"), timeout=0.3))
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_stranger_is_asked_to_sign_in_and_a_viewer_is_known() -> None:
    async with running(Calls()) as (_, channel):
        stub = user_service_pb2_grpc.UserServiceStub(channel)
        stranger = await refusal(stub.GetMe(user_service_pb2.GetMeRequest()))
        forged = await refusal(stub.GetMe(user_service_pb2.GetMeRequest(), metadata=(("authorization", "Bearer x"),)))
        viewer = await stub.GetMe(user_service_pb2.GetMeRequest(), metadata=(("authorization", "Bearer viewer"),))
    assert stranger.code is forged.code is grpc.StatusCode.UNAUTHENTICATED
    assert viewer.user.user_id == "user-1"


async def test_a_viewer_may_not_deploy_and_no_user_may_play_a_service() -> None:
    metadata = (("authorization", "Bearer viewer"),)
    async with running(Calls()) as (_, channel):
        upload = model_service_pb2_grpc.ModelServiceStub(channel).ImportModel(iter(()), metadata=metadata)
        error = await refusal(upload)
        stream = auth_service_pb2_grpc.TokenTrustServiceStub(channel).WatchTokenTrust(
            auth_service_pb2.WatchTokenTrustRequest(), metadata=metadata
        )
        refused = await refusal(stream.read())
    assert error.code is refused.code is grpc.StatusCode.PERMISSION_DENIED
    assert error.metadata == {"permission": "deploy_models"}


async def test_health_and_reflection_answer() -> None:
    async with running(Calls()) as (_, channel):
        health = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="aiops.iam.v1.AuthService")
        )
    assert health.status == health_pb2.HealthCheckResponse.SERVING
