"""The layers around every method, from the outermost to the innermost."""

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

import grpc
import protovalidate
from aiops.policy.v1 import policy_pb2
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status

from mesh.errors import (
    DeadlineExceededError,
    DomainError,
    FieldViolation,
    InvalidRequestError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from mesh.identity import Caller, CallerKind
from mesh.rpc.call import Authenticator, Call, Layer, PeerCertificate, Proceed
from mesh.rpc.context import current_caller, current_request_id
from mesh.rpc.status import CODES, to_status

log = logging.getLogger(__name__)

DEFAULT_DEADLINE_S = 30.0
LONGEST_DEADLINE_S = 300.0
# How long a stream may outlive its caller's token.
RECHECK_S = 1.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PEER_KINDS = {policy_pb2.node: CallerKind.NODE, policy_pb2.service: CallerKind.SERVICE}
_validator = protovalidate.Validator()


class RpcSpan(Protocol):
    """The record of one call."""

    def finish(self, code: grpc.StatusCode) -> None:
        """The call is over."""
        ...


class RpcTelemetry(Protocol):
    """Where calls are counted and traced."""

    def start(self, method: str, metadata: Mapping[str, str]) -> RpcSpan:
        """A call begins."""
        ...


async def request_id(call: Call, proceed: Proceed) -> Any:
    """Names the call: the client's `x-request-id` when it is a plain token, else a new one; the trailers repeat it."""
    given = call.metadata.get("x-request-id", "")
    call.request_id = given if _REQUEST_ID.fullmatch(given) else os.urandom(8).hex()
    current_request_id.set(call.request_id)
    call.context.set_trailing_metadata((("x-request-id", call.request_id),))
    return await proceed(call)


def telemetry(sink: RpcTelemetry) -> Layer:
    """Counts and traces the call, whatever its end."""

    async def layer(call: Call, proceed: Proceed) -> Any:
        span = sink.start(call.method.path, call.metadata)
        try:
            return await proceed(call)
        except asyncio.CancelledError:
            call.code = grpc.StatusCode.CANCELLED
            raise
        finally:
            span.finish(call.code)

    return layer


async def errors(call: Call, proceed: Proceed) -> Any:
    """Turns what is raised into a status: a DomainError as it says, anything else INTERNAL without its inner text."""
    try:
        return await proceed(call)
    except DomainError as error:
        await _refuse(call, error)
    except Exception:
        log.exception("%s failed, request %s", call.method.path, call.request_id)
        await _refuse(
            call, DomainError(f"something went wrong on our side; quote request {call.request_id} when you report it")
        )


async def deadline(call: Call, proceed: Proceed) -> Any:
    """Bounds the call: the client's deadline up to 300 s, or 30 s. Streams last as long as their client wants."""
    remaining = call.context.time_remaining()
    if call.method.streams and remaining is None:
        return await proceed(call)
    limit = min(DEFAULT_DEADLINE_S if remaining is None else remaining, LONGEST_DEADLINE_S)
    try:
        async with asyncio.timeout(limit):
            return await proceed(call)
    except TimeoutError as error:
        raise DeadlineExceededError(f"the call took longer than its deadline of {limit:.1f} s") from error


def authentication(authenticator: Authenticator) -> Layer:
    """Finds out who calls; a user's stream ends when their token is refused in the meantime."""

    async def layer(call: Call, proceed: Proceed) -> Any:
        peer = _peer_certificate(call)
        call.caller = await authenticator.authenticate(call.metadata, peer)
        current_caller.set(call.caller)
        if call.method.streams and call.caller.kind is CallerKind.USER:
            return await _while_trusted(lambda: authenticator.authenticate(call.metadata, peer), proceed(call))
        return await proceed(call)

    return layer


async def authorisation(call: Call, proceed: Proceed) -> Any:
    """Lets through whom the method's policy allows; a method without a policy allows nobody."""
    policy, caller = call.method.policy, call.caller
    allow = policy.WhichOneof("allow")
    if allow == "anyone" and policy.anyone:
        return await proceed(call)
    if caller.kind is CallerKind.ANONYMOUS:
        raise UnauthenticatedError(
            "sign in first: send `authorization: Bearer <token>` from POST /auth/login, or an API key"
        )
    if allow == "authenticated" and policy.authenticated and caller.kind is CallerKind.USER:
        return await proceed(call)
    if allow == "permission":
        needed = policy_pb2.Permission.Name(policy.permission)
        if caller.kind is CallerKind.USER and needed in caller.permissions:
            return await proceed(call)
        raise PermissionDeniedError(
            f"your roles do not grant `{needed}`; ask an owner of your organisation", permission=needed
        )
    if allow == "peer" and caller.kind is _PEER_KINDS[policy.peer]:
        return await proceed(call)
    raise PermissionDeniedError(f"{call.method.path} is not for this kind of caller")


async def validation(call: Call, proceed: Proceed) -> Any:
    """Decodes the request and holds it to the rules in the contract, naming every field at fault."""
    if call.method.client_streams:
        call.request = _valid_messages(call.request, call.method.request_type)
    else:
        call.request = _valid(call.request, call.method.request_type)
    return await proceed(call)


def compose(layers: list[Layer], innermost: Callable[[Call], Any]) -> Proceed:
    """The layers as one function, the first outermost."""
    proceed: Proceed = innermost
    for layer in reversed(layers):
        proceed = _around(layer, proceed)
    return proceed


def _around(layer: Layer, inner: Proceed) -> Proceed:
    async def run(call: Call) -> Any:
        return await layer(call, inner)

    return run


async def _refuse(call: Call, error: DomainError) -> None:
    call.code = CODES[error.kind]
    await call.context.abort_with_status(rpc_status.to_status(to_status(error, call.request_id)))


async def _while_trusted(check: Callable[[], Awaitable[Caller]], answer: Awaitable[Any]) -> Any:
    stream = asyncio.ensure_future(answer)
    try:
        while not (await asyncio.wait({stream}, timeout=RECHECK_S))[0]:
            await check()
        return stream.result()
    finally:
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)


def _peer_certificate(call: Call) -> PeerCertificate | None:
    pem = next(iter(call.context.auth_context().get("x509_pem_cert", ())), None)
    return PeerCertificate(pem) if pem else None


async def _valid_messages(raw: AsyncIterator[bytes], message_type: type[Message]) -> AsyncIterator[Message]:
    async for each in raw:
        yield _valid(each, message_type)


def _valid(raw: bytes, message_type: type[Message]) -> Message:
    try:
        message = message_type.FromString(raw)
    except DecodeError as error:
        name = message_type.DESCRIPTOR.full_name
        raise InvalidRequestError(FieldViolation("", f"the request is not a readable {name}")) from error
    violations = _validator.collect_violations(message)
    if violations:
        raise InvalidRequestError(*(_violation(each) for each in violations))
    return message


def _violation(violation: protovalidate.Violation) -> FieldViolation:
    proto = violation.proto
    path = ".".join(_element(each) for each in proto.field.elements) if proto.field else ""
    return FieldViolation(path, proto.message or proto.rule_id)


def _element(element: Any) -> str:
    subscript = element.subscript
    return f"{element.field_name}[{subscript.value}]" if subscript is not None else str(element.field_name)
