"""Asks the controller where files of object storage can be read: it has the credentials, this node needs none."""

from datetime import timedelta

import grpc
from aiops.nodes.v1 import node_session_service_pb2 as pb
from aiops.nodes.v1.node_session_service_pb2_grpc import NodeSessionServiceStub

from mesh.names import SESSION_NAME
from mesh.rpc.addresses import Addresses
from mesh.rpc.channel import ClientTls, called, open_channel
from mesh.rpc.status import error_from_rpc
from node_agent.cache.addresses import Signed
from node_agent.cache.model import ArtifactFile, FileMissingError, StorageUnavailableError

_TIMEOUT_S = 15.0


class Signer:
    """Calls the controller, with this node's certificate."""

    def __init__(self, target: Addresses, tls: ClientTls) -> None:
        self._target, self._tls = target, tls

    async def sign(self, file: ArtifactFile) -> Signed:
        """A fresh address of a file that this node is to have. Raises FileMissingError, StorageUnavailableError."""
        request = pb.SignFileRequest(sha256=file.sha256)
        try:
            async with open_channel(self._target.now, self._tls, options=called(SESSION_NAME)) as channel:
                answer = await NodeSessionServiceStub(channel).SignFile(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._target.turn()
            raise _refusal(file, error) from error
        return Signed(answer.url, timedelta(seconds=answer.expires_in_seconds))


def _refusal(file: ArtifactFile, error: grpc.aio.AioRpcError) -> StorageUnavailableError:
    remote = error_from_rpc(error)
    cause = f"cannot learn where {file.path} can be read: {remote.message}"
    if remote.code is grpc.StatusCode.NOT_FOUND:
        return FileMissingError(cause, path=file.path)
    if remote.code is grpc.StatusCode.UNIMPLEMENTED:
        cause = f"the controller does not say where {file.path} can be read: it is older than this agent, update it"
    return StorageUnavailableError(cause, path=file.path)
