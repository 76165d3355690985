"""API keys: tokens for programs, with a subset of their creator's roles."""

from datetime import timedelta

import grpc
import pytest
from aiops.iam.v1 import user_service_pb2 as pb

from tests.fixtures.iam import Identity, Metadata, bearer, claims_of, refusal

OWNER, EDITOR, VIEWER = "organization.owner", "organization.editor", "organization.viewer"


async def create(identity: Identity, metadata: Metadata, *roles: str, ttl_days: int = 0) -> pb.CreateApiKeyResponse:
    request = pb.CreateApiKeyRequest(name="ci", roles=roles, ttl_days=ttl_days)
    return await identity.users.CreateApiKey(request, metadata=metadata)


async def revoke(identity: Identity, metadata: Metadata, api_key_id: str) -> None:
    await identity.users.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=api_key_id), metadata=metadata)


async def listed(identity: Identity, metadata: Metadata) -> list[str]:
    answer = await identity.users.ListApiKeys(pb.ListApiKeysRequest(), metadata=metadata)
    return [key.api_key_id for key in answer.api_keys]


async def test_a_key_acts_for_its_creator_with_fewer_roles(identity: Identity) -> None:
    person = await identity.person("ana@example.org", OWNER, VIEWER)
    created = await create(identity, person, VIEWER)
    claims = claims_of(created.secret)
    assert (claims["typ"], claims["jti"]) == ("api_key", created.api_key.api_key_id)
    assert (claims["roles"], list(created.api_key.roles)) == ([VIEWER], [VIEWER])
    me = await identity.users.GetMe(pb.GetMeRequest(), metadata=bearer(created.secret))
    assert me.user.email == "ana@example.org"
    refused = await refusal(identity.users.ListUsers(pb.ListUsersRequest(), metadata=bearer(created.secret)))
    assert refused.reason == "PERMISSION_DENIED"


async def test_a_key_has_all_roles_of_its_creator_unless_fewer_are_asked_for(identity: Identity) -> None:
    created = await create(identity, await identity.person("ana@example.org", EDITOR, VIEWER))
    assert list(created.api_key.roles) == [EDITOR, VIEWER]


@pytest.mark.parametrize("role", [OWNER, "universe.viewer", "made.up", ""])
async def test_a_key_gets_no_role_that_its_creator_lacks(identity: Identity, role: str) -> None:
    refused = await refusal(create(identity, await identity.person("ana@example.org", EDITOR), EDITOR, role))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_NOT_GRANTABLE")


async def test_a_key_cannot_make_a_stronger_key(identity: Identity) -> None:
    weak = await create(identity, await identity.person("ana@example.org", OWNER, VIEWER), VIEWER)
    assert (await refusal(create(identity, bearer(weak.secret), OWNER))).reason == "ROLE_NOT_GRANTABLE"


@pytest.mark.parametrize(("asked", "days"), [(0, 365), (1, 1), (3650, 3650)])
async def test_a_key_lives_for_the_days_asked_for(identity: Identity, asked: int, days: int) -> None:
    created = await create(identity, await identity.admin(), ttl_days=asked)
    assert created.api_key.expires_at.seconds - created.api_key.created_at.seconds == days * 86_400
    identity.clock.advance(timedelta(days=days))
    await identity.users.GetMe(pb.GetMeRequest(), metadata=bearer(created.secret))
    identity.clock.advance(timedelta(minutes=2))
    refused = await refusal(identity.users.GetMe(pb.GetMeRequest(), metadata=bearer(created.secret)))
    assert refused.reason == "UNAUTHENTICATED"


async def test_a_revoked_key_is_refused_within_a_second(identity: Identity) -> None:
    person = await identity.person("ana@example.org", VIEWER)
    created, other = await create(identity, person), await create(identity, person)
    for _ in range(2):
        await revoke(identity, person, created.api_key.api_key_id)
    await identity.until_refused(created.secret)
    refused = await refusal(identity.users.GetMe(pb.GetMeRequest(), metadata=bearer(created.secret)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED")
    assert await identity.users.GetMe(pb.GetMeRequest(), metadata=bearer(other.secret))
    answer = await identity.users.ListApiKeys(pb.ListApiKeysRequest(), metadata=person)
    assert {key.api_key_id: key.HasField("revoked_at") for key in answer.api_keys} == {
        created.api_key.api_key_id: True,
        other.api_key.api_key_id: False,
    }
    told = [event["ce_type"] for event in await identity.events() if event["key"] == created.api_key.api_key_id]
    assert told == ["iam.apiKeyCreated", "iam.apiKeyRevoked"]


async def test_a_key_is_seen_by_its_creator_and_by_who_manages_users(identity: Identity) -> None:
    theirs = await identity.organization("theirs")
    ana, ben = await identity.person("ana@example.org", EDITOR), await identity.person("ben@example.org", EDITOR)
    owner = await identity.person("owner@example.org", OWNER)
    stranger = await identity.person("stranger@example.org", OWNER, org_id=theirs)
    key = (await create(identity, ana)).api_key.api_key_id
    for metadata, sees in ((ana, True), (ben, False), (owner, True), (stranger, False), (await identity.admin(), True)):
        assert await listed(identity, metadata) == ([key] if sees else [])
    for metadata in (ben, stranger):
        refused = await refusal(revoke(identity, metadata, key))
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "API_KEY_NOT_FOUND")
    await revoke(identity, owner, key)


async def test_the_secret_is_shown_once(identity: Identity) -> None:
    admin = await identity.admin()
    request = pb.CreateApiKeyRequest(name="ci", request_id="request-1")
    await identity.users.CreateApiKey(request, metadata=admin)
    refused = await refusal(identity.users.CreateApiKey(request, metadata=admin))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
    assert len(await listed(identity, admin)) == 1
