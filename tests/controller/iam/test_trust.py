"""The keys that verify tokens: published, rotated with an overlap, sealed, and the same for every controller."""

import asyncio
import base64
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import grpc
import jwt
from aiops.iam.v1 import auth_service_pb2 as auth_pb
from aiops.iam.v1 import user_service_pb2 as pb
from aiops.iam.v1.auth_service_pb2_grpc import TokenTrustServiceStub
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from sqlalchemy import select

from controller.iam.session_store import signing_keys
from controller.iam.signing import Seal, SigningKey, ensure_seal
from controller.iam.trust import ANNOUNCEMENT, KEY_AGE_LIMIT
from mesh.identity import SYSTEM
from mesh.telemetry import Telemetry
from tests.fixtures.iam import ADMIN_PASSWORD, Identity, bearer, claims_of, refusal, run_identity

ADMIN = "admin@localhost"


async def key_ids(identity: Identity) -> set[str]:
    answer = await identity.auth.GetJwks(auth_pb.GetJwksRequest())
    return {key.kid for key in answer.keys}


async def access_token(identity: Identity) -> str:
    return (await identity.login(ADMIN, ADMIN_PASSWORD)).access_token


def key_id(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


async def rotate(identity: Identity) -> None:
    known = len(identity.trust.trust.keys)
    await identity.signing_keys.rotate()
    await identity.until_trust(lambda trust: len(trust.keys) > known)


async def test_anyone_verifies_a_token_with_the_published_key(identity: Identity) -> None:
    token = await access_token(identity)
    (key,) = (await identity.auth.GetJwks(auth_pb.GetJwksRequest())).keys
    assert (key.kty, key.use, key.alg, key.kid) == ("RSA", "sig", "RS256", key_id(token))
    modulus, exponent = (int.from_bytes(base64.urlsafe_b64decode(part + "==")) for part in (key.n, key.e))
    public = RSAPublicNumbers(exponent, modulus).public_key()
    assert public.key_size == 2048
    assert jwt.decode(token, public, algorithms=["RS256"], audience="aiops", issuer="aiops")["jti"]


async def test_a_new_key_is_published_before_it_signs(identity: Identity) -> None:
    before = key_id(await access_token(identity))
    await rotate(identity)
    assert len(await key_ids(identity)) == 2
    assert key_id(await access_token(identity)) == before
    identity.clock.advance(ANNOUNCEMENT)
    assert key_id(await access_token(identity)) != before


async def test_an_old_key_verifies_until_its_last_token_has_expired(identity: Identity) -> None:
    await rotate(identity)
    identity.clock.advance(ANNOUNCEMENT - timedelta(seconds=1))
    token = await access_token(identity)
    identity.clock.advance(timedelta(minutes=15, seconds=59))
    await identity.trust.load()
    assert await identity.users.GetMe(pb.GetMeRequest(), metadata=bearer(token))
    identity.clock.advance(timedelta(seconds=3))
    await identity.trust.load()
    assert key_id(token) not in await key_ids(identity)
    assert (await refusal(identity.users.GetMe(pb.GetMeRequest(), metadata=bearer(token)))).reason == "UNAUTHENTICATED"


async def test_an_old_key_verifies_while_an_api_key_lives(identity: Identity) -> None:
    admin = await identity.admin()
    created = await identity.users.CreateApiKey(pb.CreateApiKeyRequest(name="ci"), metadata=admin)
    await rotate(identity)
    identity.clock.advance(timedelta(days=30))
    await identity.signing_keys.keep_house()
    await identity.trust.load()
    assert await identity.users.GetMe(pb.GetMeRequest(), metadata=bearer(created.secret))
    revoke = pb.RevokeApiKeyRequest(api_key_id=created.api_key.api_key_id)
    await identity.users.RevokeApiKey(revoke, metadata=await identity.admin())
    await identity.until_trust(lambda trust: key_id(created.secret) not in trust.keys)


async def test_keys_are_rotated_when_they_are_old(identity: Identity) -> None:
    first = await key_ids(identity)
    identity.clock.advance(KEY_AGE_LIMIT - timedelta(seconds=1))
    await identity.signing_keys.keep_house()
    await identity.trust.load()
    assert await key_ids(identity) == first
    identity.clock.advance(timedelta(seconds=1))
    for _ in range(2):
        await identity.signing_keys.keep_house()
    await identity.trust.load()
    assert len(await key_ids(identity)) == 2
    identity.clock.advance(timedelta(hours=1))
    await identity.signing_keys.keep_house()
    await identity.trust.load()
    assert len(await key_ids(identity) - first) == 1
    assert not await key_ids(identity) & first


async def test_private_keys_are_sealed(identity: Identity) -> None:
    async with identity.database.reading(SYSTEM) as connection:
        row = (await connection.execute(select(signing_keys))).one()
    key = SigningKey(**row._mapping)
    context = f"signing_keys|{key.key_id}|sealed_private_key"
    seal = ensure_seal(identity.pki)
    assert seal.open(key.sealed_private_key, context)
    assert seal.open(key.sealed_private_key, context.replace(key.key_id, "key-other")) is None
    assert Seal(bytes(32)).open(key.sealed_private_key, context) is None
    assert (identity.pki / "token-seal.key").stat().st_mode & 0o777 == 0o600


async def test_two_controllers_believe_the_same_tokens(
    identity: Identity, database: str, tmp_path: Path, telemetry: Telemetry
) -> None:
    async with run_identity(database, tmp_path, telemetry) as other:
        pair = await identity.login(ADMIN, ADMIN_PASSWORD)
        assert await other.users.GetMe(pb.GetMeRequest(), metadata=bearer(pair.access_token))
        await identity.auth.Logout(auth_pb.LogoutRequest(refresh_token=pair.refresh_token))
        # The other controller gets no hint; it looks every second.
        async with asyncio.timeout(2), aclosing(other.trust.watch()) as trusts:
            async for trust in trusts:
                if claims_of(pair.access_token)["jti"] in trust.revoked:
                    break
        refused = await refusal(other.users.GetMe(pb.GetMeRequest(), metadata=bearer(pair.access_token)))
        assert refused.reason == "TOKEN_REVOKED"


async def test_a_controller_whose_seal_was_lost_signs_with_a_new_key(
    identity: Identity, database: str, tmp_path: Path, telemetry: Telemetry
) -> None:
    token = await access_token(identity)
    async with run_identity(database, tmp_path / "elsewhere", telemetry) as other:
        assert key_id(await access_token(other)) != key_id(token)
        assert await other.users.GetMe(pb.GetMeRequest(), metadata=bearer(token))


async def test_controllers_that_start_at_once_make_one_key(database: str, tmp_path: Path, telemetry: Telemetry) -> None:
    async def start() -> set[str]:
        async with run_identity(database, tmp_path, telemetry) as running:
            return await key_ids(running)

    seen = await asyncio.gather(start(), start(), start())
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 1


async def test_services_are_told_of_keys_and_revocations_at_once(identity: Identity) -> None:
    pair = await identity.login(ADMIN, ADMIN_PASSWORD)
    async with asyncio.timeout(5), identity.trust_stub("gateway") as stub:
        told = stub.WatchTokenTrust(auth_pb.WatchTokenTrustRequest())
        messages = aiter(told)
        first = await anext(messages)
        assert ([key.kid for key in first.keys], list(first.revoked_token_ids)) == ([key_id(pair.access_token)], [])
        await identity.auth.Logout(auth_pb.LogoutRequest(refresh_token=pair.refresh_token))
        second = await anext(messages)
        assert list(second.revoked_token_ids) == [claims_of(pair.access_token)["jti"]]
        await identity.signing_keys.rotate()
        assert len((await anext(messages)).keys) == 2
        told.cancel()


async def test_only_services_are_told(identity: Identity) -> None:
    async with grpc.aio.insecure_channel(identity.address) as channel:
        for metadata in (None, await identity.admin()):
            told = TokenTrustServiceStub(channel).WatchTokenTrust(auth_pb.WatchTokenTrustRequest(), metadata=metadata)
            refused = await refusal(told.read())
            assert refused.code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
