"""Tokens at the edge: only what the platform signed, for us, in time and not revoked, comes in."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from aiops.iam.v1 import auth_service_pb2
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.fixtures.edge import Edge, Issuer

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def status(edge: Edge, token: str | None, path: str = "/models") -> int:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return (await edge.client.get(path, headers=headers)).status_code


async def test_a_missing_token_is_refused_in_each_route_family_in_its_own_words(edge: Edge) -> None:
    api = await edge.client.get("/models")
    assert (api.status_code, api.json()["code"]) == (401, 16)
    assert api.json()["details"][0]["reason"] == "UNAUTHENTICATED"
    model = await edge.client.post("/v1/chat/completions", json={"model": "tiny"})
    assert (model.status_code, model.json()["error"]["type"]) == (401, "authentication_error")
    assert (await edge.client.get("/v1/models")).status_code == 401
    assert (await edge.client.get("/models/tiny/a/v1/inference")).json()["error"]["type"] == "authentication_error"


async def test_a_valid_token_comes_in(edge: Edge) -> None:
    assert await status(edge, edge.issuer.token()) == 200
    assert await status(edge, edge.issuer.token(typ="api_key", exp=int(time.time()) + 10_000_000)) == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1_000_000_000},
        {"iss": "somebody"},
        {"aud": "somewhere"},
        {"nbf": 4_000_000_000},
    ],
)
async def test_a_token_out_of_time_or_for_others_is_refused(edge: Edge, claims: dict[str, Any]) -> None:
    assert await status(edge, edge.issuer.token(**claims)) in {401, 403}


async def test_a_token_without_an_end_is_refused(edge: Edge) -> None:
    head, payload, _ = edge.issuer.token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    del claims["exp"]
    endless = Issuer(edge.issuer.key, edge.issuer.kid).sign(claims)
    assert await status(edge, endless) == 401
    assert head


async def test_forged_tokens_are_refused(edge: Edge) -> None:
    stranger = rsa.generate_private_key(65537, 2048)
    assert await status(edge, edge.issuer.token(key=stranger)) == 401
    head, payload, signature = edge.issuer.token().split(".")
    other = json.loads(base64.urlsafe_b64decode(payload + "==")) | {"org": "org-two"}
    assert await status(edge, f"{head}.{segment(other)}.{signature}") == 401
    assert await status(edge, f"{segment({'alg': 'none', 'typ': 'JWT'})}.{payload}.") == 401
    assert await status(edge, f"{segment({'alg': 'none', 'kid': 'k1'})}.{payload}.{signature}") == 401
    assert await status(edge, "not-a-token") == 401


async def test_the_public_key_is_no_secret_to_sign_with(edge: Edge) -> None:
    payload = edge.issuer.token().split(".")[1]
    for secret in (edge.issuer.jwk().n.encode(), edge.issuer.public_pem()):
        signed = f"{segment({'alg': 'HS256', 'kid': 'k1', 'typ': 'JWT'})}.{payload}"
        digest = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        assert await status(edge, f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}") == 401


async def test_a_token_in_the_address_is_no_credential(edge: Edge) -> None:
    response = await edge.client.get("/models", params={"access_token": edge.issuer.token()})
    assert response.status_code == 401


async def test_a_revoked_token_is_refused_at_once_and_open_connections_stay(edge: Edge) -> None:
    key = edge.issuer.token(jti="key-7", typ="api_key")
    assert await status(edge, key) == 200
    drained = await edge.stat("listener_manager.listener_modified")
    await edge.revoke("key-7", "key-8")

    async def refused() -> bool:
        return await status(edge, key) == 401

    assert await edge.until(refused) < 1
    answer = await edge.client.get("/models", headers={"authorization": f"Bearer {key}"})
    assert answer.json()["message"] == "the token is revoked"
    assert await status(edge, edge.issuer.token(jti="key-9")) == 200
    assert await edge.stat("listener_manager.listener_modified") == drained
    await edge.revoke()

    async def welcome() -> bool:
        return await status(edge, key) == 200

    await edge.until(welcome)


async def test_a_new_key_is_accepted_beside_the_old_one_without_touching_the_listener(edge: Edge) -> None:
    drained = await edge.stat("listener_manager.listener_modified")
    newer = Issuer(kid="k2")
    assert await status(edge, newer.token()) == 401
    await edge.plane.trust.set(auth_service_pb2.WatchTokenTrustResponse(keys=[edge.issuer.jwk(), newer.jwk()]))

    async def passes_the_edge() -> bool:
        # The controller of this test knows only the first key; the edge lets the token through to it.
        answer = await edge.client.get("/models", headers={"authorization": f"Bearer {newer.token()}"})
        return "names no known key" in answer.text

    assert await edge.until(passes_the_edge) < 1
    assert await status(edge, edge.issuer.token()) == 200
    assert await edge.stat("listener_manager.listener_modified") == drained
    await edge.revoke()


def segment(content: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()
