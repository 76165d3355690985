"""Users and organisations, and who may see and change which."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from aiops.iam.v1 import auth_service_pb2 as auth_pb
from aiops.iam.v1 import user_service_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask

from mesh.rpc.status import error_from_rpc
from tests.fixtures.iam import ADMIN_PASSWORD, PASSWORD, Identity, Metadata, bearer, claims_of, refusal

OWNER, EDITOR, VIEWER = "organization.owner", "organization.editor", "organization.viewer"


def new_user(email: str, *roles: str, **other: str) -> pb.CreateUserRequest:
    return pb.CreateUserRequest(email=email, name="Somebody", password=PASSWORD, roles=roles, **other)


def user_id(metadata: Metadata) -> str:
    return str(claims_of(metadata[0][1].removeprefix("Bearer "))["sub"])


def delete(
    identity: Identity, who: str, metadata: Metadata
) -> "grpc.aio.UnaryUnaryCall[pb.DeleteUserRequest, pb.DeleteUserResponse]":
    return identity.users.DeleteUser(pb.DeleteUserRequest(user_id=who), metadata=metadata)


async def test_a_created_user_signs_in_with_their_roles(identity: Identity) -> None:
    admin = await identity.admin()
    created = (await identity.users.CreateUser(new_user("Ana@Example.org", VIEWER, EDITOR), metadata=admin)).user
    assert (created.email, list(created.roles)) == ("ana@example.org", [EDITOR, VIEWER])
    assert (created.owner.org_id, created.owner.user_id) == ("default", user_id(admin))
    assert not created.is_deleted
    token = (await identity.login("ana@example.org", PASSWORD)).access_token
    assert claims_of(token)["roles"] == [EDITOR, VIEWER]
    told = [event for event in await identity.events() if event["key"] == created.user_id]
    assert [(event["type"], event["orgId"], event["createdBy"]) for event in told] == [
        ("iam.userCreated", "default", user_id(admin))
    ]


async def test_an_address_belongs_to_one_user(identity: Identity) -> None:
    admin = await identity.admin()
    await identity.add_user("ana@example.org", VIEWER)
    refused = await refusal(identity.users.CreateUser(new_user("ANA@example.org", VIEWER), metadata=admin))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "USER_EXISTS")


async def test_of_many_who_take_an_address_at_once_one_gets_it(identity: Identity) -> None:
    admin = await identity.admin()
    calls = (identity.users.CreateUser(new_user("ana@example.org", VIEWER), metadata=admin) for _ in range(8))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [error_from_rpc(answer) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert [error.reason for error in refused] == ["USER_EXISTS"] * 7


async def test_a_repeated_request_answers_the_first_user(identity: Identity) -> None:
    admin = await identity.admin()
    request = new_user("ana@example.org", VIEWER, request_id="request-1")
    first = await identity.users.CreateUser(request, metadata=admin)
    assert (await identity.users.CreateUser(request, metadata=admin)).user == first.user
    other = new_user("ben@example.org", VIEWER, request_id="request-1")
    assert (await refusal(identity.users.CreateUser(other, metadata=admin))).reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("role", ["universe.owner", "universe.editor", "universe.viewer"])
async def test_an_owner_of_an_organisation_grants_no_role_of_the_universe(identity: Identity, role: str) -> None:
    owner = await identity.person("owner@example.org", OWNER)
    refused = await refusal(identity.users.CreateUser(new_user("ana@example.org", VIEWER, role), metadata=owner))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_NOT_GRANTABLE")
    assert refused.metadata["roles"] == role
    assert await identity.users.CreateUser(new_user("ana@example.org", OWNER), metadata=owner)


@pytest.mark.parametrize("role", ["universe.editor", "universe.viewer", EDITOR, VIEWER])
async def test_only_owners_manage_users(identity: Identity, role: str) -> None:
    person = await identity.person("person@example.org", role)
    for call in (
        identity.users.ListUsers(pb.ListUsersRequest(), metadata=person),
        identity.users.GetUser(pb.GetUserRequest(user_id="user-1"), metadata=person),
        identity.users.CreateUser(new_user("ana@example.org", VIEWER), metadata=person),
        delete(identity, "user-1", person),
        identity.users.CreateOrganization(pb.CreateOrganizationRequest(name="theirs"), metadata=person),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


async def test_an_organisation_does_not_see_the_users_of_another(identity: Identity) -> None:
    theirs = await identity.organization("theirs")
    owner = await identity.person("owner@example.org", OWNER)
    stranger = await identity.add_user("stranger@example.org", OWNER, org_id=theirs)
    for call in (
        identity.users.GetUser(pb.GetUserRequest(user_id=stranger.user_id), metadata=owner),
        delete(identity, stranger.user_id, owner),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
    listed = await identity.users.ListUsers(pb.ListUsersRequest(), metadata=owner)
    assert {user.email for user in listed.users} == {"admin@localhost", "owner@example.org"}
    everyone = await identity.users.ListUsers(pb.ListUsersRequest(), metadata=await identity.admin())
    assert stranger.email in {user.email for user in everyone.users}


async def test_a_user_joins_another_organisation_only_by_a_role_of_the_universe(identity: Identity) -> None:
    theirs = await identity.organization("theirs")
    owner = await identity.person("owner@example.org", OWNER)
    for org_id in (theirs, "org-unknown"):
        request = new_user("ana@example.org", VIEWER, org_id=org_id)
        assert (await refusal(identity.users.CreateUser(request, metadata=owner))).reason == "ORGANIZATION_NOT_FOUND"
    unknown = new_user("ana@example.org", VIEWER, org_id="org-unknown")
    refused = await refusal(identity.users.CreateUser(unknown, metadata=await identity.admin()))
    assert refused.reason == "ORGANIZATION_NOT_FOUND"


async def test_users_come_in_pages(identity: Identity) -> None:
    admin = await identity.admin()
    for number in range(5):
        await identity.add_user(f"user-{number}@example.org", VIEWER)
        identity.clock.advance(timedelta(seconds=1))
    emails, token = [], ""
    while True:
        page = await identity.users.ListUsers(pb.ListUsersRequest(page_size=2, page_token=token), metadata=admin)
        emails += [user.email for user in page.users]
        token = page.next_page_token
        if not token:
            break
    assert emails == [*(f"user-{number}@example.org" for number in (4, 3, 2, 1, 0)), "admin@localhost"]


async def test_a_deleted_user_is_gone_with_all_their_credentials(identity: Identity) -> None:
    admin = await identity.admin()
    user = await identity.add_user("ana@example.org", EDITOR)
    pair = await identity.login("ana@example.org", PASSWORD)
    key = await identity.users.CreateApiKey(pb.CreateApiKeyRequest(name="ci"), metadata=bearer(pair.access_token))
    await delete(identity, user.user_id, admin)
    for token in (pair.access_token, key.secret):
        await identity.until_refused(token)
        assert (
            await refusal(identity.users.GetMe(pb.GetMeRequest(), metadata=bearer(token)))
        ).reason == "TOKEN_REVOKED"
    refresh = identity.auth.Refresh(auth_pb.RefreshRequest(refresh_token=pair.refresh_token))
    assert (await refusal(refresh)).reason == "REFRESH_TOKEN_INVALID"
    assert (await refusal(identity.login("ana@example.org", PASSWORD))).reason == "LOGIN_FAILED"
    gone = identity.users.GetUser(pb.GetUserRequest(user_id=user.user_id), metadata=admin)
    assert (await refusal(gone)).reason == "USER_NOT_FOUND"
    assert (await refusal(delete(identity, user.user_id, admin))).reason == "USER_NOT_FOUND"
    assert await identity.add_user("ana@example.org", VIEWER)
    assert [event["ce_type"] for event in await identity.events()].count("iam.userDeleted") == 1


async def test_an_owner_of_an_organisation_deletes_nobody_above_them(identity: Identity) -> None:
    owner = await identity.person("owner@example.org", OWNER)
    refused = await refusal(delete(identity, user_id(await identity.admin()), owner))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


async def test_the_last_owner_stays(identity: Identity) -> None:
    admin, owner = await identity.admin(), await identity.person("owner@example.org", OWNER)
    for who, by in ((user_id(admin), admin), (user_id(owner), owner), (user_id(owner), admin)):
        refused = await refusal(delete(identity, who, by))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LAST_OWNER")
    await identity.add_user("second@example.org", OWNER)
    await delete(identity, user_id(owner), owner)


async def test_two_owners_who_delete_each_other_do_not_both_go(identity: Identity) -> None:
    first = await identity.person("first@example.org", OWNER)
    second = await identity.person("second@example.org", OWNER)
    answers = await asyncio.gather(
        delete(identity, user_id(first), second), delete(identity, user_id(second), first), return_exceptions=True
    )
    refused = [error_from_rpc(answer) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert [error.reason for error in refused] == ["LAST_OWNER"]


async def test_people_change_their_own_name_and_address(identity: Identity) -> None:
    ana = await identity.person("ana@example.org", VIEWER)
    request = pb.UpdateMeRequest(update_mask=FieldMask(paths=["name", "email"]))
    request.user.name, request.user.email = "Ana", "Ana@Elsewhere.org"
    updated = (await identity.users.UpdateMe(request, metadata=ana)).user
    assert (updated.name, updated.email) == ("Ana", "ana@elsewhere.org")
    assert (await identity.users.GetMe(pb.GetMeRequest(), metadata=ana)).user == updated
    assert await identity.login("ana@elsewhere.org", PASSWORD)


async def test_only_the_fields_of_the_mask_change(identity: Identity) -> None:
    ana = await identity.person("ana@example.org", VIEWER)
    request = pb.UpdateMeRequest(update_mask=FieldMask(paths=["name"]))
    request.user.email = "ignored@example.org"
    updated = (await identity.users.UpdateMe(request, metadata=ana)).user
    assert (updated.name, updated.email) == ("", "ana@example.org")
    request = pb.UpdateMeRequest()
    request.user.name = "Ana"
    updated = (await identity.users.UpdateMe(request, metadata=ana)).user
    assert (updated.name, updated.email) == ("Ana", "ana@example.org")


@pytest.mark.parametrize("path", ["roles", "owner.org_id", "user_id", "password_hash", "*", "name.first"])
async def test_nothing_else_can_be_named_in_the_mask(identity: Identity, path: str) -> None:
    request = pb.UpdateMeRequest(update_mask=FieldMask(paths=["name", path]))
    request.user.name = "Ana"
    refused = await refusal(identity.users.UpdateMe(request, metadata=await identity.admin()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert [(violation.field, path in violation.description) for violation in refused.violations] == [
        ("update_mask", True)
    ]


async def test_an_address_cannot_be_emptied_or_taken_from_another(identity: Identity) -> None:
    ana = await identity.person("ana@example.org", VIEWER)
    empty = pb.UpdateMeRequest(update_mask=FieldMask(paths=["email"]))
    empty.user.name = "Ana"
    refused = await refusal(identity.users.UpdateMe(empty, metadata=ana))
    assert [violation.field for violation in refused.violations] == ["user.email"]
    taken = pb.UpdateMeRequest()
    taken.user.email = "admin@localhost.local"
    await identity.add_user("admin@localhost.local", VIEWER)
    assert (await refusal(identity.users.UpdateMe(taken, metadata=ana))).reason == "USER_EXISTS"


async def test_organisations_are_seen_by_their_own_and_by_the_universe(identity: Identity) -> None:
    theirs = await identity.organization("theirs")
    person = await identity.person("ana@example.org", VIEWER, org_id=theirs)
    seen = await identity.users.ListOrganizations(pb.ListOrganizationsRequest(), metadata=person)
    assert [organization.name for organization in seen.organizations] == ["theirs"]
    seen = await identity.users.ListOrganizations(pb.ListOrganizationsRequest(), metadata=await identity.admin())
    assert {organization.name for organization in seen.organizations} == {"default", "theirs"}


async def test_an_organisation_is_made_once(identity: Identity) -> None:
    admin = await identity.admin()
    request = pb.CreateOrganizationRequest(name="theirs", request_id="request-1")
    first = await identity.users.CreateOrganization(request, metadata=admin)
    assert (await identity.users.CreateOrganization(request, metadata=admin)) == first
    again = identity.users.CreateOrganization(pb.CreateOrganizationRequest(name="theirs"), metadata=admin)
    refused = await refusal(again)
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ORGANIZATION_EXISTS")


async def test_an_owner_of_an_organisation_makes_no_organisation(identity: Identity) -> None:
    owner = await identity.person("owner@example.org", OWNER)
    refused = await refusal(
        identity.users.CreateOrganization(pb.CreateOrganizationRequest(name="theirs"), metadata=owner)
    )
    assert (refused.reason, refused.metadata) == ("PERMISSION_DENIED", {"permission": "manage_organizations"})


async def test_a_stranger_is_asked_to_sign_in(identity: Identity) -> None:
    refused = await refusal(identity.users.GetMe(pb.GetMeRequest()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert ADMIN_PASSWORD not in refused.message
