"""A session: refresh tokens that are used once, and its end."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from aiops.iam.v1 import auth_service_pb2 as auth_pb
from aiops.iam.v1 import user_pb2
from aiops.iam.v1 import user_service_pb2 as pb
from sqlalchemy import func, select

from controller.iam.session_store import refresh_tokens, revoked_tokens, sessions
from mesh.identity import SYSTEM
from tests.fixtures.iam import ADMIN_PASSWORD, Identity, bearer, refusal

ADMIN = "admin@localhost"


async def refresh(identity: Identity, pair: user_pb2.TokenPair) -> user_pb2.TokenPair:
    answer = await identity.auth.Refresh(auth_pb.RefreshRequest(refresh_token=pair.refresh_token))
    return answer.tokens


async def me(identity: Identity, pair: user_pb2.TokenPair) -> pb.GetMeResponse:
    return await identity.users.GetMe(pb.GetMeRequest(), metadata=bearer(pair.access_token))


async def logout(identity: Identity, refresh_token: str) -> None:
    await identity.auth.Logout(auth_pb.LogoutRequest(refresh_token=refresh_token))


async def test_a_session_goes_on_from_token_to_token(identity: Identity) -> None:
    pair = await identity.login(ADMIN, ADMIN_PASSWORD)
    for _ in range(3):
        identity.clock.advance(timedelta(days=6))
        pair = await refresh(identity, pair)
        assert (await me(identity, pair)).user.email == ADMIN


async def test_a_refresh_token_runs_out_after_7_days(identity: Identity) -> None:
    pair = await identity.login(ADMIN, ADMIN_PASSWORD)
    identity.clock.advance(timedelta(days=7))
    refused = await refusal(refresh(identity, pair))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "REFRESH_TOKEN_INVALID")


async def test_an_unknown_refresh_token_is_refused(identity: Identity) -> None:
    refused = await refusal(identity.auth.Refresh(auth_pb.RefreshRequest(refresh_token="unknown")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "REFRESH_TOKEN_INVALID")


async def test_an_access_token_refreshes_nothing(identity: Identity) -> None:
    pair = await identity.login(ADMIN, ADMIN_PASSWORD)
    refused = await refusal(identity.auth.Refresh(auth_pb.RefreshRequest(refresh_token=pair.access_token)))
    assert refused.reason == "REFRESH_TOKEN_INVALID"


async def test_using_a_refresh_token_twice_ends_every_token_of_the_session(identity: Identity) -> None:
    first = await identity.login(ADMIN, ADMIN_PASSWORD)
    second = await refresh(identity, first)
    refused = await refusal(refresh(identity, first))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "REFRESH_TOKEN_REUSED")
    assert (await refusal(refresh(identity, second))).reason == "REFRESH_TOKEN_INVALID"
    for pair in (first, second):
        await identity.until_refused(pair.access_token)
        assert (await refusal(me(identity, pair))).reason == "TOKEN_REVOKED"
    assert await me(identity, await identity.login(ADMIN, ADMIN_PASSWORD))


async def test_reuse_is_told_once(identity: Identity) -> None:
    pair = await identity.login(ADMIN, ADMIN_PASSWORD)
    await refresh(identity, pair)
    for _ in range(3):
        assert (await refusal(refresh(identity, pair))).reason == "REFRESH_TOKEN_REUSED"
    told = [event for event in await identity.events() if event["ce_type"] == "iam.tokenFamilyRevoked"]
    assert [(event["key"], event["reason"]) for event in told] == [(told[0]["userId"], "REFRESH_TOKEN_REUSED")]
    assert told[0]["familyId"]


async def test_of_50_who_use_a_token_at_once_one_wins_and_the_session_ends(identity: Identity) -> None:
    pair = await identity.login(ADMIN, ADMIN_PASSWORD)
    racers = await asyncio.gather(*(refresh(identity, pair) for _ in range(50)), return_exceptions=True)
    winners = [racer for racer in racers if isinstance(racer, user_pb2.TokenPair)]
    assert len(winners) == 1
    assert all(isinstance(racer, grpc.aio.AioRpcError) for racer in racers if racer not in winners)
    # The losers are taken for thieves, or the winner may be one: nobody keeps the session.
    assert (await refusal(refresh(identity, winners[0]))).reason == "REFRESH_TOKEN_INVALID"
    await identity.until_refused(winners[0].access_token)
    assert [event["ce_type"] for event in await identity.events()].count("iam.tokenFamilyRevoked") == 1


async def test_logout_ends_the_session_and_no_other(identity: Identity) -> None:
    mine, other = await identity.login(ADMIN, ADMIN_PASSWORD), await identity.login(ADMIN, ADMIN_PASSWORD)
    await logout(identity, mine.refresh_token)
    assert (await refusal(refresh(identity, mine))).reason == "REFRESH_TOKEN_INVALID"
    await identity.until_refused(mine.access_token)
    assert (await refusal(me(identity, mine))).reason == "TOKEN_REVOKED"
    assert await me(identity, other)
    assert await refresh(identity, other)


async def test_logout_can_be_repeated_and_takes_unknown_tokens(identity: Identity) -> None:
    pair = await identity.login(ADMIN, ADMIN_PASSWORD)
    for token in (pair.refresh_token, pair.refresh_token, "unknown"):
        await logout(identity, token)


async def test_a_new_password_ends_every_session(identity: Identity) -> None:
    mine, other = await identity.login(ADMIN, ADMIN_PASSWORD), await identity.login(ADMIN, ADMIN_PASSWORD)
    request = pb.ChangePasswordRequest(current_password=ADMIN_PASSWORD, new_password="a brand new password")
    await identity.users.ChangePassword(request, metadata=bearer(mine.access_token))
    for pair in (mine, other):
        assert (await refusal(refresh(identity, pair))).reason == "REFRESH_TOKEN_INVALID"
        await identity.until_refused(pair.access_token)
    assert (await refusal(identity.login(ADMIN, ADMIN_PASSWORD))).reason == "LOGIN_FAILED"
    assert await identity.login(ADMIN, "a brand new password")


async def test_a_new_password_needs_the_current_one_and_guesses_count(identity: Identity) -> None:
    metadata = await identity.admin()
    request = pb.ChangePasswordRequest(current_password="wrong", new_password="a brand new password")
    for _ in range(5):
        refused = await refusal(identity.users.ChangePassword(request, metadata=metadata))
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "WRONG_PASSWORD")
    assert (await refusal(identity.users.ChangePassword(request, metadata=metadata))).reason == "LOGIN_THROTTLED"


async def test_a_new_password_must_be_long_enough(identity: Identity) -> None:
    request = pb.ChangePasswordRequest(current_password=ADMIN_PASSWORD, new_password="short")
    refused = await refusal(identity.users.ChangePassword(request, metadata=await identity.admin()))
    assert [violation.field for violation in refused.violations] == ["new_password"]


async def test_secrets_are_not_kept(identity: Identity) -> None:
    pair = await identity.login(ADMIN, ADMIN_PASSWORD)
    async with identity.database.reading(SYSTEM) as connection:
        kept = str((await connection.execute(select(refresh_tokens))).all())
    assert pair.refresh_token not in kept
    assert pair.access_token not in kept


async def test_what_has_expired_is_deleted(identity: Identity) -> None:
    pair = await identity.login(ADMIN, ADMIN_PASSWORD)
    await logout(identity, pair.refresh_token)
    await refusal(identity.login(ADMIN, "wrong"))
    identity.clock.advance(timedelta(days=8))
    await identity.signing_keys.keep_house()
    async with identity.database.reading(SYSTEM) as connection:
        for table in (sessions, refresh_tokens, revoked_tokens):
            assert await connection.scalar(select(func.count()).select_from(table)) == 0


@pytest.mark.parametrize("token", ["", "x" * 1025])
async def test_what_cannot_be_a_refresh_token_is_no_valid_request(identity: Identity, token: str) -> None:
    refused = await refusal(identity.auth.Refresh(auth_pb.RefreshRequest(refresh_token=token)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
