"""Joining: a one-use token for a certificate, over TLS that the token itself vouches for."""

import tempfile
from datetime import UTC
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from aiops.nodes.v1 import node_session_service_pb2 as pb
from aiops.nodes.v1.node_session_service_pb2_grpc import NodeEnrollmentServiceStub

from mesh.clock import Clock
from mesh.errors import DomainError, FieldViolation, InvalidRequestError, Kind, UnavailableError
from mesh.failpoints import failpoint
from mesh.names import JOIN_NAME
from mesh.rpc.channel import ClientTls, called, open_channel
from mesh.rpc.status import error_from_rpc
from node_agent.enrollment.identity import Identity, IdentityStore, NotJoinedError
from node_agent.enrollment.reach import why_unreachable
from node_agent.enrollment.request import certificate_request, new_key
from node_agent.enrollment.token import JoinToken

_TIMEOUT_S = 15.0


class JoinRefusedError(DomainError):
    """The controller did not take the token."""

    kind, reason = Kind.UNAUTHENTICATED, "JOIN_TOKEN_INVALID"


class OtherMeshError(DomainError):
    """This home belongs to a node of another mesh."""

    kind, reason = Kind.EXISTS, "NODE_EXISTS"


async def join(store: IdentityStore, controller: str, token_text: str, clock: Clock) -> tuple[Identity, bool]:
    """The node's identity, and whether it is new: a home that has joined this mesh already keeps its node.

    Without a `controller` the token says where. Raises InvalidRequestError, JoinRefusedError, JoinTokenOverError,
    ClockWrongError, OtherMeshError, UnavailableError.
    """
    token = JoinToken.parse(token_text)
    present = _present(store)
    if present and present.authority.strip() != token.authority.strip():
        raise OtherMeshError(
            f"this home is already node {present.node_id} of another mesh; join with another AIOPS_NODE_HOME"
        )
    if present and present.expires_at > clock.now():
        return present, False
    token.check(clock.now())
    target = target_of(controller or token.url)
    key = store.key_pem() or new_key()
    store.save_key(key)
    response = await _call(target, token, certificate_request(key))
    await failpoint("join.answered")
    identity = Identity(
        node_id=response.node_id,
        session_address=response.session_address,
        certificate=response.certificate,
        authority=response.authority,
        issued_at=clock.now(),
        expires_at=response.expires_at.ToDatetime(tzinfo=UTC),
        tunnel_address=response.tunnel_address,
    )
    store.save(identity)
    return identity, True


def target_of(url: str) -> str:
    """`host:port` of a controller's URL; https may be left out. Raises InvalidRequestError."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    if parts.scheme not in {"", "https"} or not parts.hostname:
        raise InvalidRequestError(FieldViolation("controller", f"{url!r} is no https URL or host:port"))
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or 443}"


def _present(store: IdentityStore) -> Identity | None:
    try:
        return store.load()
    except NotJoinedError:
        return None


async def _call(target: str, token: JoinToken, request: bytes) -> pb.JoinResponse:
    with tempfile.TemporaryDirectory() as directory:
        authority = Path(directory) / "ca.crt"
        authority.write_text(token.authority)
        async with open_channel(target, ClientTls(authority), options=called(JOIN_NAME)) as channel:
            try:
                message = pb.JoinRequest(token=token.secret, certificate_request=request)
                return await NodeEnrollmentServiceStub(channel).Join(message, timeout=_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise await _refusal(target, error) from error


async def _refusal(target: str, error: grpc.aio.AioRpcError) -> DomainError:
    remote = error_from_rpc(error)
    if remote.code not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return JoinRefusedError(remote.message, remote_reason=remote.reason)
    return UnavailableError(await why_unreachable(target, remote.message))
