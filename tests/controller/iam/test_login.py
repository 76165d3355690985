"""Signing in with an e-mail address and a password."""

import asyncio
import statistics
import time
from datetime import timedelta

import grpc
import jwt
from aiops.iam.v1 import user_service_pb2 as pb
from argon2 import PasswordHasher
from sqlalchemy import select, update

from controller.iam.passwords import LONGEST_QUEUE, MEMORY_KIB, PASSES, Passwords
from controller.iam.store import users
from controller.iam.throttle import FAILURES_PER_ACCOUNT_AND_ADDRESS, FAILURES_PER_ADDRESS, WINDOW
from controller.quotas.model import Limits, Quota, QuotaId, Subject
from mesh.errors import ExhaustedError
from mesh.identity import SYSTEM, OrgId, UserId
from mesh.rpc.status import RemoteError
from tests.fixtures.iam import ADMIN_PASSWORD, Identity, bearer, claims_of, refusal

ADMIN = "admin@localhost"


async def test_the_first_user_signs_in_and_sees_themself(identity: Identity) -> None:
    pair = await identity.login("Admin@LocalHost ", ADMIN_PASSWORD)
    assert (pair.token_type, pair.expires_in) == ("Bearer", 900)
    me = await identity.users.GetMe(pb.GetMeRequest(), metadata=bearer(pair.access_token))
    assert (me.user.email, list(me.user.roles)) == (ADMIN, ["universe.owner"])
    assert me.user.owner.org_id == "default"


async def test_an_access_token_says_who_may_do_what_for_15_minutes(identity: Identity) -> None:
    token = (await identity.login(ADMIN, ADMIN_PASSWORD)).access_token
    claims = claims_of(token)
    assert (claims["iss"], claims["aud"], claims["typ"], claims["org"]) == ("aiops", "aiops", "access", "default")
    assert claims["roles"] == ["universe.owner"]
    assert "manage_organizations" in claims["permissions"]
    assert claims["rate_limits"] == {}
    assert claims["exp"] - claims["iat"] == 900
    assert jwt.get_unverified_header(token)["alg"] == "RS256"
    assert jwt.get_unverified_header(token)["kid"] in identity.trust.trust.keys


async def test_an_access_token_says_how_many_requests_quotas_allow(identity: Identity) -> None:
    me = claims_of((await identity.login(ADMIN, ADMIN_PASSWORD)).access_token)
    now = identity.clock.now()
    async with identity.unit_of_work(SYSTEM) as work:
        for number, (subject, subject_id, limits) in enumerate(
            [
                (Subject.ORGANIZATION, me["org"], Limits(requests_per_minute=100, requests_per_day=1000)),
                (Subject.USER, me["sub"], Limits(requests_per_minute=60, tokens_per_day=5)),
                (Subject.USER, "somebody-else", Limits(requests_per_minute=1)),
            ]
        ):
            quota_id, org_id = QuotaId(f"quota-{number}"), OrgId(me["org"])
            quota = Quota(quota_id, org_id, UserId(me["sub"]), now, now, subject, subject_id, "", limits)
            await work.quotas.add(quota)
        await work.commit()
    claims = claims_of((await identity.login(ADMIN, ADMIN_PASSWORD)).access_token)
    assert claims["rate_limits"] == {"requests_per_minute": 60, "requests_per_day": 1000}


async def test_an_expired_access_token_is_refused(identity: Identity) -> None:
    token = (await identity.login(ADMIN, ADMIN_PASSWORD)).access_token
    identity.clock.advance(timedelta(minutes=16, seconds=1))
    refused = await refusal(identity.users.GetMe(pb.GetMeRequest(), metadata=bearer(token)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


async def test_an_unknown_address_and_a_wrong_password_are_refused_alike(identity: Identity) -> None:
    wrong = await refusal(identity.login(ADMIN, "wrong"))
    unknown = await refusal(identity.login("nobody@localhost", "wrong"))
    assert (wrong.code, wrong.reason) == (grpc.StatusCode.UNAUTHENTICATED, "LOGIN_FAILED")
    assert (unknown.code, unknown.reason, unknown.message) == (wrong.code, wrong.reason, wrong.message)
    assert [(event["email"], event["reason"]) for event in await identity.events() if "reason" in event] == [
        (ADMIN, "LOGIN_FAILED"),
        ("nobody@localhost", "LOGIN_FAILED"),
    ]


async def test_an_unknown_address_takes_as_long_as_a_wrong_password(identity: Identity) -> None:
    async def seconds(email: str, address: str) -> float:
        started = time.perf_counter()
        await refusal(identity.login(email, "wrong", address))
        return time.perf_counter() - started

    rounds = [(await seconds(ADMIN, f"wrong-{n}"), await seconds("nobody@localhost", f"nobody-{n}")) for n in range(9)]
    wrong, unknown = (statistics.median(times) for times in zip(*rounds, strict=True))
    assert 0.5 < unknown / wrong < 2


async def test_guessing_is_stopped_for_the_rest_of_the_window(identity: Identity) -> None:
    for _ in range(FAILURES_PER_ACCOUNT_AND_ADDRESS):
        assert (await refusal(identity.login(ADMIN, "wrong"))).reason == "LOGIN_FAILED"
    identity.clock.advance(timedelta(minutes=5))
    refused = await refusal(identity.login(ADMIN, ADMIN_PASSWORD))
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LOGIN_THROTTLED")
    assert refused.metadata == {"retry_after_seconds": "600"}
    assert [event["reason"] for event in await identity.events() if "reason" in event][-1] == "LOGIN_THROTTLED"
    assert await identity.login(ADMIN, ADMIN_PASSWORD, "198.51.100.7")
    identity.clock.advance(WINDOW - timedelta(minutes=5))
    assert await identity.login(ADMIN, ADMIN_PASSWORD)


async def test_guesses_sent_at_once_are_counted_like_any_others(identity: Identity) -> None:
    answers = await asyncio.gather(*(refusal(identity.login(ADMIN, f"guess {n}")) for n in range(40)))
    reasons = [answer.reason for answer in answers]
    # Two hashes run at once, so one guess more than the limit may be under way when the limit is reached.
    assert reasons.count("LOGIN_FAILED") in (FAILURES_PER_ACCOUNT_AND_ADDRESS, FAILURES_PER_ACCOUNT_AND_ADDRESS + 1)
    assert set(reasons) == {"LOGIN_FAILED", "LOGIN_THROTTLED"}


async def test_one_address_cannot_try_every_account(identity: Identity) -> None:
    async def spray(number: int) -> RemoteError:
        return await refusal(identity.login(f"user-{number}@localhost", "password1"))

    for number in range(FAILURES_PER_ADDRESS):
        assert (await spray(number)).reason == "LOGIN_FAILED"
    assert (await spray(FAILURES_PER_ADDRESS)).reason == "LOGIN_THROTTLED"


async def test_the_address_is_the_one_that_the_gateway_saw(identity: Identity) -> None:
    """What a client puts before it does not count, nor does which of its 2⁶⁴ addresses it uses."""
    for number in range(FAILURES_PER_ACCOUNT_AND_ADDRESS):
        await refusal(identity.login(ADMIN, "wrong", f"198.51.100.{number}, 2001:db8::{number}"))
    assert (await refusal(identity.login(ADMIN, ADMIN_PASSWORD, "2001:db8::ffff"))).reason == "LOGIN_THROTTLED"
    for elsewhere in ("2001:db8:1::1", "::ffff:192.0.2.1", "192.0.2.1", "no address"):
        assert await identity.login(ADMIN, ADMIN_PASSWORD, elsewhere)


async def test_a_success_forgets_the_failures_of_the_account(identity: Identity) -> None:
    for _ in range(3):
        for _ in range(FAILURES_PER_ACCOUNT_AND_ADDRESS - 1):
            await refusal(identity.login(ADMIN, "wrong"))
        assert await identity.login(ADMIN, ADMIN_PASSWORD)


async def test_many_people_sign_in_at_once(identity: Identity) -> None:
    pairs = await asyncio.gather(*(identity.login(ADMIN, ADMIN_PASSWORD) for _ in range(20)))
    assert len({pair.refresh_token for pair in pairs}) == 20


async def test_passwords_are_kept_as_argon2id(identity: Identity) -> None:
    assert (await _password_hash(identity)).startswith(f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p=1$")


async def test_a_hash_with_old_parameters_is_renewed_at_login(identity: Identity) -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(ADMIN_PASSWORD)
    async with identity.database.writing(SYSTEM) as connection:
        await connection.execute(update(users).values(password_hash=weak))
        await connection.commit()
    await identity.login(ADMIN, ADMIN_PASSWORD)
    assert f"m={MEMORY_KIB}," in await _password_hash(identity)


async def test_a_flood_of_logins_is_refused_rather_than_queued_without_end() -> None:
    passwords = Passwords(parallel=1)
    async with passwords.turn():
        waiting = [asyncio.ensure_future(passwords.hash("x")) for _ in range(LONGEST_QUEUE)]
        await asyncio.sleep(0)
        try:
            await passwords.hash("one too many")
        except ExhaustedError as error:
            refused = error
        for each in waiting:
            each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    passwords.close()
    assert refused.reason == "RESOURCE_EXHAUSTED"


async def _password_hash(identity: Identity) -> str:
    async with identity.database.reading(SYSTEM) as connection:
        return str(await connection.scalar(select(users.c.password_hash)))
