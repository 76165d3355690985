"""The servicers of the area."""

from collections.abc import AsyncIterator
from ipaddress import IPv6Address, IPv6Network

from aiops.iam.v1 import auth_service_pb2 as auth_pb
from aiops.iam.v1 import user_service_pb2 as pb
from aiops.iam.v1.auth_service_pb2_grpc import AuthServiceServicer, TokenTrustServiceServicer
from aiops.iam.v1.user_service_pb2_grpc import UserServiceServicer

from controller.iam.api_keys import ApiKeys
from controller.iam.convert import (
    api_key_to_proto,
    jwks_to_proto,
    organization_to_proto,
    pair_to_proto,
    profile_change,
    user_to_proto,
)
from controller.iam.model import ApiKeyId
from controller.iam.service import Users
from controller.iam.sessions import Sessions
from controller.iam.trust import TokenTrustFeed
from mesh.identity import OrgId, UserId
from mesh.rpc.context import Context, caller
from mesh.sql.paging import PageRequest


class AuthServicer(AuthServiceServicer):
    """Signing in."""

    def __init__(self, sessions: Sessions, trust: TokenTrustFeed) -> None:
        self._sessions = sessions
        self._trust = trust

    async def Login(self, request: auth_pb.LoginRequest, context: Context) -> auth_pb.LoginResponse:
        pair = await self._sessions.login(request.email, request.password, client_address(context))
        return auth_pb.LoginResponse(tokens=pair_to_proto(pair))

    async def Refresh(self, request: auth_pb.RefreshRequest, context: Context) -> auth_pb.RefreshResponse:
        return auth_pb.RefreshResponse(tokens=pair_to_proto(await self._sessions.refresh(request.refresh_token)))

    async def Logout(self, request: auth_pb.LogoutRequest, context: Context) -> auth_pb.LogoutResponse:
        await self._sessions.logout(request.refresh_token)
        return auth_pb.LogoutResponse()

    async def GetJwks(self, request: auth_pb.GetJwksRequest, context: Context) -> auth_pb.GetJwksResponse:
        return auth_pb.GetJwksResponse(keys=jwks_to_proto(self._trust.trust))


class TokenTrustServicer(TokenTrustServiceServicer):
    """What the gateway refuses tokens with."""

    def __init__(self, trust: TokenTrustFeed) -> None:
        self._trust = trust

    async def WatchTokenTrust(
        self, request: auth_pb.WatchTokenTrustRequest, context: Context
    ) -> AsyncIterator[auth_pb.WatchTokenTrustResponse]:
        async for trust in self._trust.watch():
            yield auth_pb.WatchTokenTrustResponse(keys=jwks_to_proto(trust), revoked_token_ids=sorted(trust.revoked))


class UserServicer(UserServiceServicer):
    """The signed-in user, users, organisations and API keys."""

    def __init__(self, users: Users, sessions: Sessions, api_keys: ApiKeys) -> None:
        self._users = users
        self._sessions = sessions
        self._api_keys = api_keys

    async def GetMe(self, request: pb.GetMeRequest, context: Context) -> pb.GetMeResponse:
        who = caller(context)
        return pb.GetMeResponse(user=user_to_proto(await self._users.get(who, who.user_id)))

    async def UpdateMe(self, request: pb.UpdateMeRequest, context: Context) -> pb.UpdateMeResponse:
        user = await self._users.update_me(caller(context), profile_change(request))
        return pb.UpdateMeResponse(user=user_to_proto(user))

    async def ChangePassword(self, request: pb.ChangePasswordRequest, context: Context) -> pb.ChangePasswordResponse:
        await self._sessions.change_password(
            caller(context), request.current_password, request.new_password, client_address(context)
        )
        return pb.ChangePasswordResponse()

    async def ListUsers(self, request: pb.ListUsersRequest, context: Context) -> pb.ListUsersResponse:
        page = await self._users.page(caller(context), PageRequest(request.page_size, request.page_token))
        return pb.ListUsersResponse(users=[user_to_proto(user) for user in page.items], next_page_token=page.next_token)

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.GetUserResponse:
        user = await self._users.get(caller(context), UserId(request.user_id))
        return pb.GetUserResponse(user=user_to_proto(user))

    async def CreateUser(self, request: pb.CreateUserRequest, context: Context) -> pb.CreateUserResponse:
        user = await self._users.create(
            caller(context),
            email=request.email,
            name=request.name,
            password=request.password,
            roles=request.roles,
            org_id=OrgId(request.org_id),
            request_id=request.request_id,
        )
        return pb.CreateUserResponse(user=user_to_proto(user))

    async def DeleteUser(self, request: pb.DeleteUserRequest, context: Context) -> pb.DeleteUserResponse:
        await self._users.delete(caller(context), UserId(request.user_id))
        return pb.DeleteUserResponse()

    async def ListOrganizations(
        self, request: pb.ListOrganizationsRequest, context: Context
    ) -> pb.ListOrganizationsResponse:
        page = await self._users.organizations(caller(context), PageRequest(request.page_size, request.page_token))
        shown = [organization_to_proto(organization) for organization in page.items]
        return pb.ListOrganizationsResponse(organizations=shown, next_page_token=page.next_token)

    async def CreateOrganization(
        self, request: pb.CreateOrganizationRequest, context: Context
    ) -> pb.CreateOrganizationResponse:
        organization = await self._users.create_organization(caller(context), request.name, request.request_id)
        return pb.CreateOrganizationResponse(organization=organization_to_proto(organization))

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Context) -> pb.ListApiKeysResponse:
        page = await self._api_keys.page(caller(context), PageRequest(request.page_size, request.page_token))
        return pb.ListApiKeysResponse(
            api_keys=[api_key_to_proto(key) for key in page.items], next_page_token=page.next_token
        )

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Context) -> pb.CreateApiKeyResponse:
        key, secret = await self._api_keys.create(
            caller(context),
            name=request.name,
            roles=request.roles,
            ttl_days=request.ttl_days,
            request_id=request.request_id,
        )
        return pb.CreateApiKeyResponse(api_key=api_key_to_proto(key), secret=secret)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Context) -> pb.RevokeApiKeyResponse:
        await self._api_keys.revoke(caller(context), ApiKeyId(request.api_key_id))
        return pb.RevokeApiKeyResponse()


def client_address(context: Context) -> str:
    """Where the client is: the last address of `x-forwarded-for`, which Envoy wrote itself, else the peer's.

    An IPv6 address counts as its network of 64 bits, since one client has all of those.
    """
    forwarded = [value for key, value in context.invocation_metadata() or () if key == "x-forwarded-for"]
    # "ipv4:127.0.0.1:40812": the port changes with every connection.
    text = str(forwarded[-1]).rpartition(",")[2].strip() if forwarded else context.peer().rpartition(":")[0]
    try:
        address = IPv6Address(text)
    except ValueError:
        return text
    return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))
