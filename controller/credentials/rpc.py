"""The servicers of credentials: for users, and for the gateway."""

from collections.abc import AsyncIterator

from aiops.credentials.v1 import credential_service_pb2 as pb
from aiops.credentials.v1.credential_service_pb2_grpc import (
    CredentialServiceServicer,
    ProviderSecretServiceServicer,
)

from controller.credentials.convert import credential_to_proto
from controller.credentials.service import Credentials
from mesh.rpc.context import Context, caller
from mesh.sql.paging import PageRequest


class CredentialServicer(CredentialServiceServicer):
    """Secrets go in and never come out."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def ListCredentials(self, request: pb.ListCredentialsRequest, context: Context) -> pb.ListCredentialsResponse:
        page = await self._credentials.page(caller(context), PageRequest(request.page_size, request.page_token))
        return pb.ListCredentialsResponse(
            credentials=map(credential_to_proto, page.items), next_page_token=page.next_token
        )

    async def CreateCredential(
        self, request: pb.CreateCredentialRequest, context: Context
    ) -> pb.CreateCredentialResponse:
        made = await self._credentials.create(caller(context), request.name, request.secret, request.request_id)
        return pb.CreateCredentialResponse(credential=credential_to_proto(made))

    async def RotateCredential(
        self, request: pb.RotateCredentialRequest, context: Context
    ) -> pb.RotateCredentialResponse:
        after = await self._credentials.rotate(caller(context), request.credential_id, request.secret)
        return pb.RotateCredentialResponse(credential=credential_to_proto(after))

    async def DeleteCredential(
        self, request: pb.DeleteCredentialRequest, context: Context
    ) -> pb.DeleteCredentialResponse:
        gone = await self._credentials.delete(caller(context), request.credential_id)
        return pb.DeleteCredentialResponse(credential=credential_to_proto(gone))


class ProviderSecretServicer(ProviderSecretServiceServicer):
    """What the gateway shows to providers."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def WatchProviderSecrets(
        self, request: pb.WatchProviderSecretsRequest, context: Context
    ) -> AsyncIterator[pb.WatchProviderSecretsResponse]:
        async for secrets in self._credentials.watch(caller(context)):
            yield pb.WatchProviderSecretsResponse(
                secrets=[pb.ProviderSecret(credential_id=name, secret=secret) for name, secret in secrets.items()]
            )
