"""Identity as protobuf messages and events."""

from base64 import urlsafe_b64encode
from datetime import datetime

from aiops.iam.v1 import auth_service_pb2 as auth_pb
from aiops.iam.v1 import iam_events_pb2 as events_pb
from aiops.iam.v1 import user_pb2 as pb
from aiops.iam.v1 import user_service_pb2 as service_pb
from aiops.types.v1 import owner_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from controller.events import Encoding, Encodings
from controller.iam.model import (
    ApiKey,
    ApiKeyCreated,
    ApiKeyRevoked,
    LoginRefused,
    Organization,
    ProfileChange,
    TokenFamilyRevoked,
    TokenPair,
    User,
    UserCreated,
    UserDeleted,
)
from mesh.clock import unix_ms
from mesh.tokens import ALGORITHM, TokenTrust

TOPIC = "aiops.iam.v1"


def user_to_proto(user: User) -> pb.User:
    """A user without its password."""
    return pb.User(
        user_id=user.user_id,
        email=user.email,
        name=user.name,
        roles=user.roles,
        owner=owner_pb2.Owner(org_id=user.org_id, user_id=user.created_by),
        created_at=_timestamp(user.created_at),
        changed_at=_timestamp(user.changed_at),
        deleted_at=_optional(user.deleted_at),
        is_deleted=user.deleted_at is not None,
    )


def organization_to_proto(organization: Organization) -> pb.Organization:
    """An organisation."""
    return pb.Organization(
        org_id=organization.org_id,
        name=organization.name,
        created_at=_timestamp(organization.created_at),
        changed_at=_timestamp(organization.changed_at),
    )


def api_key_to_proto(key: ApiKey) -> pb.ApiKey:
    """An API key without its secret."""
    return pb.ApiKey(
        api_key_id=key.api_key_id,
        name=key.name,
        roles=key.roles,
        owner=owner_pb2.Owner(org_id=key.org_id, user_id=key.user_id),
        created_at=_timestamp(key.created_at),
        expires_at=_timestamp(key.expires_at),
        revoked_at=_optional(key.revoked_at),
    )


def pair_to_proto(pair: TokenPair) -> pb.TokenPair:
    """What a login answers."""
    return pb.TokenPair(
        access_token=pair.access_token,
        refresh_token=pair.refresh_token,
        token_type="Bearer",  # noqa: S106 - the name of a scheme
        expires_in=int(pair.expires_in.total_seconds()),
    )


def profile_change(request: service_pb.UpdateMeRequest) -> ProfileChange:
    """What an update asks for; InvalidRequestError names unknown paths of the mask."""
    return ProfileChange.of(request.user.name, request.user.email, request.update_mask.paths)


def jwks_to_proto(trust: TokenTrust) -> list[auth_pb.JsonWebKey]:
    """The verification keys as RFC 7517 has them."""
    return [
        auth_pb.JsonWebKey(
            kty="RSA",
            kid=key_id,
            use="sig",
            alg=ALGORITHM,
            n=_base64url(key.public_numbers().n),
            e=_base64url(key.public_numbers().e),
        )
        for key_id, key in trust.keys.items()
    ]


def _user_created(event: UserCreated) -> events_pb.UserCreated:
    return events_pb.UserCreated(
        type="iam.userCreated",
        user_id=event.user_id,
        org_id=event.org_id,
        roles=event.roles,
        created_by=event.created_by,
        timestamp=unix_ms(event.at),
    )


def _user_deleted(event: UserDeleted) -> events_pb.UserDeleted:
    return events_pb.UserDeleted(
        type="iam.userDeleted",
        user_id=event.user_id,
        org_id=event.org_id,
        deleted_by=event.deleted_by,
        timestamp=unix_ms(event.at),
    )


def _login_refused(event: LoginRefused) -> events_pb.LoginRefused:
    return events_pb.LoginRefused(
        type="iam.loginRefused", email=event.email, reason=event.reason, timestamp=unix_ms(event.at)
    )


def _token_family_revoked(event: TokenFamilyRevoked) -> events_pb.TokenFamilyRevoked:
    return events_pb.TokenFamilyRevoked(
        type="iam.tokenFamilyRevoked",
        user_id=event.user_id,
        family_id=event.session_id,
        reason=event.reason,
        timestamp=unix_ms(event.at),
    )


def _api_key_created(event: ApiKeyCreated) -> events_pb.ApiKeyCreated:
    return events_pb.ApiKeyCreated(
        type="iam.apiKeyCreated",
        api_key_id=event.api_key_id,
        user_id=event.user_id,
        org_id=event.org_id,
        timestamp=unix_ms(event.at),
    )


def _api_key_revoked(event: ApiKeyRevoked) -> events_pb.ApiKeyRevoked:
    return events_pb.ApiKeyRevoked(
        type="iam.apiKeyRevoked",
        api_key_id=event.api_key_id,
        user_id=event.user_id,
        org_id=event.org_id,
        timestamp=unix_ms(event.at),
    )


EVENTS: Encodings = {
    UserCreated: Encoding("iam.userCreated", TOPIC, lambda event: event.user_id, _user_created),
    UserDeleted: Encoding("iam.userDeleted", TOPIC, lambda event: event.user_id, _user_deleted),
    LoginRefused: Encoding("iam.loginRefused", TOPIC, lambda event: event.email, _login_refused),
    TokenFamilyRevoked: Encoding("iam.tokenFamilyRevoked", TOPIC, lambda event: event.user_id, _token_family_revoked),
    ApiKeyCreated: Encoding("iam.apiKeyCreated", TOPIC, lambda event: event.api_key_id, _api_key_created),
    ApiKeyRevoked: Encoding("iam.apiKeyRevoked", TOPIC, lambda event: event.api_key_id, _api_key_revoked),
}


def _timestamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def _optional(moment: datetime | None) -> Timestamp | None:
    return None if moment is None else _timestamp(moment)


def _base64url(number: int) -> str:
    return urlsafe_b64encode(number.to_bytes(-(-number.bit_length() // 8), "big")).decode().rstrip("=")
