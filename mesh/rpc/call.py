"""One call on its way through the layers, and what is known of its method."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from aiops.policy.v1 import policy_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mesh.identity import ANONYMOUS, Caller

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The certificate that the other end proved by mutual TLS."""

    pem: bytes


class Authenticator(Protocol):
    """Finds out who calls. Raises UnauthenticatedError for a credential that is there and wrong."""

    async def authenticate(self, metadata: dict[str, str], peer: PeerCertificate | None) -> Caller:
        """The caller; ANONYMOUS when there is no credential at all."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """What the contract says of one method."""

    path: str
    policy: policy_pb2.Policy
    request_type: type[Message]
    client_streams: bool
    server_streams: bool

    @staticmethod
    def of(descriptor: MethodDescriptor) -> "Method":
        """Reads a method from its descriptor."""
        return Method(
            path=f"/{descriptor.containing_service.full_name}/{descriptor.name}",
            policy=descriptor.GetOptions().Extensions[policy_pb2.policy],
            request_type=GetMessageClass(descriptor.input_type),
            client_streams=descriptor.client_streaming,
            server_streams=descriptor.server_streaming,
        )

    @property
    def streams(self) -> bool:
        """Whether either side sends more than one message."""
        return self.client_streams or self.server_streams


@dataclass(slots=True)
class Call:
    """A call in progress. Layers fill it in; `request` is bytes until the validation layer has decoded it."""

    method: Method
    context: Context
    request: Any
    metadata: dict[str, str]
    request_id: str = ""
    caller: Caller = ANONYMOUS
    code: grpc.StatusCode = grpc.StatusCode.OK
    attributes: dict[str, str] = field(default_factory=dict)


Proceed = Callable[[Call], Awaitable[Any]]
Layer = Callable[[Call, Proceed], Awaitable[Any]]
RawRequests = AsyncIterator[bytes]
