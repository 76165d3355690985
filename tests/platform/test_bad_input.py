"""What the contract does not allow is refused at the gateway: by field, with a reason, and without effect."""

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from controller.iam.signing import Signer, SigningKey, ensure_seal
from stack.postgres import Postgres
from tests.platform.served import Served, fetched, question

API_LIMIT, CHAT_LIMIT = 4 * 1024 * 1024, 16 * 1024 * 1024
INVALID = (400, 3, "INVALID_REQUEST")
UNKNOWN = (401, 16, "UNAUTHENTICATED")
STRANGER = (403, 7, "PERMISSION_DENIED")
ROLES = ["organization.viewer"]


@pytest.fixture(autouse=True)
async def nothing_changes(served: Served, rest: httpx.AsyncClient) -> AsyncIterator[None]:
    """Every test of this module leaves everything as it was."""
    before = await everything(rest)
    yield
    assert await everything(rest) == before


async def everything(rest: httpx.AsyncClient) -> dict[str, set[str]]:
    """The ids of all there is."""
    lists = {
        "nodes": "nodeId",
        "models": "modelId",
        "deployments": "deploymentId",
        "users": "userId",
        "organizations": "orgId",
        "api-keys": "apiKeyId",
    }
    found = {}
    for name, key in lists.items():
        page = await fetched(rest, f"/{name}?pageSize=1000")
        (rows,) = [value for value in page.values() if isinstance(value, list)]
        found[name] = {row[key] for row in rows}
    return found


def problem(answer: httpx.Response) -> tuple[int, int, str]:
    """HTTP status, code and reason of a google.rpc.Status in JSON."""
    assert answer.headers["content-type"].startswith("application/json"), answer.text
    fields = answer.json()
    assert set(fields) == {"code", "message", "details"}, answer.text
    (info,) = [each for each in fields["details"] if each["@type"].endswith("google.rpc.ErrorInfo")]
    assert info["domain"] == "aiops"
    return answer.status_code, fields["code"], info["reason"]


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/deployments", {"modelId": 5}, "model_id"),
        ("POST", "/deployments", {"modelId": "platform-demo", "port": "many"}, "port"),
        ("POST", "/deployments", {"modelId": "platform-demo", "port": 80}, "port"),
        ("POST", "/deployments", {"modelId": "platform-demo", "port": 65536}, "port"),
        ("POST", "/deployments", {"modelId": "platform-demo", "port": -1}, "port"),
        ("POST", "/deployments", {"modelId": "platform-demo", "port": 2000.5}, "port"),
        ("POST", "/deployments", {"modelId": "platform-demo", "gpuDevice": "first"}, "gpu_device"),
        ("POST", "/deployments", {"modelId": ""}, "model_id"),
        ("POST", "/deployments", {}, "model_id"),
        ("POST", "/deployments", {"modelId": "m" * 256}, "model_id"),
        ("POST", "/deployments/plan", {"modelId": {"name": "platform-demo"}}, "model_id"),
        ("POST", "/nodes", {"name": True}, "name"),
        ("POST", "/nodes", {"name": ""}, "name"),
        ("POST", "/nodes", {"name": "spare", "role": ["captain"]}, "role"),
        ("POST", "/nodes", {"name": "spare", "isLocal": "perhaps"}, "is_local"),
        ("POST", "/nodes", {"name": "spare", "labels": {"a": 1}}, "labels"),
        ("POST", "/users", {"email": "no address", "password": "long enough for it", "roles": ROLES}, "email"),
        ("POST", "/users", {"email": "a@b.c", "password": "short", "roles": ROLES}, "password"),
        ("POST", "/users", {"email": "a@b.c", "password": "long enough for it", "roles": ["root"]}, "roles"),
        ("POST", "/api-keys", {"name": "k", "ttlDays": 4000}, "ttl_days"),
        ("POST", "/models/download", {"repo": "../etc/passwd", "framework": "vllm"}, "repo"),
        ("POST", "/models/download", {"repo": "a/b", "framework": "cobol"}, "framework"),
        ("POST", "/system/broadcast", {"message": "m", "severity": "deadly"}, "severity"),
        ("GET", "/nodes?status=asleep", None, "status"),
        ("GET", "/models?framework=cobol", None, "framework"),
        ("GET", "/deployments?pageSize=1001", None, "page_size"),
        ("GET", "/deployments?pageSize=-1", None, "page_size"),
        ("GET", "/deployments?status=17", None, "status"),
    ],
)
async def test_a_value_of_the_wrong_kind_is_refused_by_its_field(
    rest: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None, field: str
) -> None:
    answer = await rest.request(method, path, json=body)
    assert problem(answer) == INVALID, answer.text
    assert field in answer.json()["message"], answer.text


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/deployments", {"modelId": "platform-demo", "replicas": 3}, "replicas"),
        ("/nodes", {"name": "spare", "config": {"workDir": "/"}}, "config.workDir"),
        ("/users", {"email": "a@b.c", "password": "long enough for it", "roles": ROLES, "admin": True}, "admin"),
        ("/auth/login", {"email": "a@b.c", "password": "x", "otp": "1"}, "otp"),
    ],
)
async def test_a_field_that_does_not_exist_is_refused_by_name(
    rest: httpx.AsyncClient, path: str, body: dict[str, Any], field: str
) -> None:
    answer = await rest.post(path, json=body)
    assert problem(answer) == INVALID
    violations = [each["fieldViolations"] for each in answer.json()["details"] if "fieldViolations" in each]
    assert [violation["field"] for violation in violations[0]] == [field]


@pytest.mark.parametrize("path", ["/nodes?colour=red", "/deployments/x/logs?line=5", "/system/health?verbose=1"])
async def test_a_query_parameter_that_does_not_exist_is_refused_by_name(rest: httpx.AsyncClient, path: str) -> None:
    answer = await rest.get(path)
    assert problem(answer) == INVALID
    assert path.partition("?")[2].partition("=")[0] in answer.json()["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b"null", b"\xff\xfe", b'{"name": "a"} {"name": "b"}', b""])
async def test_a_body_that_is_no_json_object_is_refused(rest: httpx.AsyncClient, body: bytes) -> None:
    answer = await rest.post("/nodes", content=body, headers={"content-type": "application/json"})
    assert problem(answer) == INVALID


@pytest.mark.parametrize("path", ["/deployments", "/nodes", "/auth/login"])
async def test_a_body_that_is_too_large_is_refused(rest: httpx.AsyncClient, path: str) -> None:
    answer = await rest.post(path, json={"name": "x" * API_LIMIT})
    assert problem(answer) == (413, 8, "RESOURCE_EXHAUSTED")


async def test_a_chat_that_is_too_large_is_refused(served: Served, rest: httpx.AsyncClient) -> None:
    answer = await rest.post("/v1/chat/completions", json=question(served.model, "x" * CHAT_LIMIT))
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "invalid_request_error")


@pytest.mark.parametrize("path", ["/nodes?pageToken=made-up", "/deployments?pageToken=bm9uZQ", "/users?pageToken=%00"])
async def test_a_page_token_that_no_list_made_is_refused(rest: httpx.AsyncClient, path: str) -> None:
    answer = await rest.get(path)
    assert problem(answer)[:2] == (400, 3), answer.text


async def test_a_path_that_does_not_exist_is_not_found(rest: httpx.AsyncClient) -> None:
    for method, path in (
        ("GET", "/nothing"),
        ("PUT", "/nodes"),
        ("DELETE", "/deployments"),
        ("POST", "/system/health"),
    ):
        assert problem(await rest.request(method, path, json={})) == (404, 5, "NOT_FOUND")


async def test_a_wrong_token_gets_nowhere(served: Served) -> None:
    async with served.client() as rest:
        for kind, token in (await wrong_tokens(served)).items():
            rest.headers["authorization"] = f"Bearer {token}"
            if token is None:
                del rest.headers["authorization"]
            status, code, reason = STRANGER if kind == "for somebody else" else UNKNOWN
            for method, path in (("GET", "/nodes"), ("POST", "/deployments"), ("DELETE", "/models/platform-demo")):
                answer = await rest.request(method, path, json={} if method == "POST" else None)
                assert problem(answer) == (status, code, reason), kind
            answer = await rest.post("/v1/chat/completions", json=question(served.model))
            assert (answer.status_code, set(answer.json())) == (status, {"error"}), kind


async def test_a_token_made_the_same_way_but_right_is_let_in(served: Served) -> None:
    claims = jwt.decode(served.api_key, options={"verify_signature": False})
    async with served.client(await signed(served, claims)) as rest:
        assert (await rest.get("/nodes")).status_code == 200


async def wrong_tokens(served: Served) -> dict[str, str | None]:
    """Tokens by what is wrong with them."""
    head, payload, signature = served.api_key.split(".")
    claims = jwt.decode(served.api_key, options={"verify_signature": False})
    header = jwt.get_unverified_header(served.api_key)
    stranger = rsa.generate_private_key(65537, 2048)
    return {
        "none at all": None,
        "no token": "nonsense",
        "forged by another key": jwt.encode(claims, stranger, "RS256", headers=header),
        "of no algorithm": f"{segment({'alg': 'none', 'typ': 'JWT'})}.{payload}.",
        "of no algorithm, signed": f"{segment(header | {'alg': 'none'})}.{payload}.{signature}",
        "with other claims": f"{head}.{segment(claims | {'org': 'other'})}.{signature}",
        "signed with the public key": hashed(header, payload, (await signing_key(served)).public_pem),
        "expired": await signed(served, claims | {"exp": int(time.time()) - 120}),
        "not valid yet": await signed(served, claims | {"nbf": int(time.time()) + 3600}),
        "for somebody else": await signed(served, claims | {"aud": "other"}),
        "by somebody else": await signed(served, claims | {"iss": "other"}),
    }


async def signed(served: Served, claims: dict[str, Any]) -> str:
    """A token that the platform itself could have made."""
    row = await signing_key(served)
    signer = Signer.open(row, ensure_seal(served.platform.home.pki))
    assert signer is not None
    return jwt.encode(claims, signer.key, "RS256", headers={"kid": signer.key_id})


async def signing_key(served: Served) -> SigningKey:
    url = Postgres.at(served.platform.home.root).url().replace("+asyncpg", "")
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("select set_config('aiops.org', '*', false)")
        row = await connection.fetchrow("select * from signing_keys order by created_at limit 1")
        return SigningKey(**row)
    finally:
        await connection.close()


def hashed(header: dict[str, object], payload: str, secret: str) -> str:
    """A token by a shared secret."""
    content = f"{segment(header | {'alg': 'HS256'})}.{payload}"
    digest = hmac.digest(secret.encode(), content.encode(), "sha256")
    return f"{content}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def segment(content: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()
