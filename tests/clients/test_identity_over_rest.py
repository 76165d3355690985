"""Identity as a REST client of the whole platform sees it, through the gateway."""

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.fixtures.platform import Platform


@pytest.fixture
def rest(platform: Platform) -> Iterator[httpx.Client]:
    """A client of the REST API that is not signed in."""
    with httpx.Client(base_url=platform.url, timeout=30) as client:
        yield client


@pytest.fixture
def signed_in(rest: httpx.Client, platform: Platform) -> httpx.Client:
    """A client with the first user's token."""
    rest.headers["authorization"] = f"Bearer {login(rest, platform)['accessToken']}"
    return rest


def login(rest: httpx.Client, platform: Platform) -> dict[str, str]:
    credentials = {"email": "admin@localhost", "password": platform.admin_password}
    answer = rest.post("/auth/login", json=credentials)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, str] = answer.json()
    return tokens


def reason(answer: httpx.Response) -> str:
    return next((str(each["reason"]) for each in answer.json().get("details", []) if "reason" in each), "")


def refused_within(seconds: float, rest: httpx.Client, token: str) -> httpx.Response:
    """The refusal of a token that is being revoked."""
    deadline = time.monotonic() + seconds
    while True:
        answer = rest.get("/users/me", headers={"authorization": f"Bearer {token}"})
        if answer.status_code != 200:
            return answer
        assert time.monotonic() < deadline, "the token is still taken"


def test_a_user_signs_in_looks_and_changes_their_name(signed_in: httpx.Client) -> None:
    me = signed_in.get("/users/me").json()
    assert (me["email"], me["roles"], me["owner"]["orgId"]) == ("admin@localhost", ["universe.owner"], "default")
    changed = signed_in.patch("/users/me", json={"name": "Ana"})
    assert (changed.status_code, changed.json()["name"], changed.json()["email"]) == (200, "Ana", "admin@localhost")


def test_a_wrong_password_is_refused(rest: httpx.Client) -> None:
    answer = rest.post("/auth/login", json={"email": "nobody@localhost", "password": "wrong"})
    assert (answer.status_code, reason(answer)) == (401, "LOGIN_FAILED")


def test_anyone_reads_the_verification_keys(rest: httpx.Client) -> None:
    (key, *_) = rest.get("/.well-known/jwks.json").json()["keys"]
    assert (key["kty"], key["use"], key["alg"]) == ("RSA", "sig", "RS256")


def test_a_refresh_token_used_twice_ends_the_session_at_the_edge(rest: httpx.Client, platform: Platform) -> None:
    first = login(rest, platform)
    second = rest.post("/auth/refresh", json={"refreshToken": first["refreshToken"]}).json()
    reused = rest.post("/auth/refresh", json={"refreshToken": first["refreshToken"]})
    assert (reused.status_code, reason(reused)) == (401, "REFRESH_TOKEN_REUSED")
    assert refused_within(2, rest, second["accessToken"]).status_code in (401, 403)


def test_an_api_key_works_until_it_is_revoked(signed_in: httpx.Client) -> None:
    created = signed_in.post("/api-keys", json={"name": "ci"}).json()
    with httpx.Client(base_url=signed_in.base_url) as program:
        program.headers["authorization"] = f"Bearer {created['secret']}"
        assert program.get("/users/me").status_code == 200
        assert signed_in.delete(f"/api-keys/{created['apiKey']['apiKeyId']}").status_code == 200
        assert refused_within(2, program, created["secret"]).status_code in (401, 403)


def test_an_unknown_field_of_the_mask_is_named(signed_in: httpx.Client) -> None:
    answer = signed_in.patch("/users/me?updateMask=name,roles", json={"name": "Ana"})
    assert (answer.status_code, reason(answer)) == (400, "INVALID_REQUEST")
    assert "roles" in answer.text


def test_another_organisations_user_is_not_found(signed_in: httpx.Client, platform: Platform) -> None:
    suffix = str(time.time_ns())
    org_id = signed_in.post("/organizations", json={"name": f"theirs-{suffix}"}).json()["orgId"]
    credentials = {"email": f"owner-{suffix}@example.org", "password": "a long enough password"}
    stranger = {**credentials, "roles": ["organization.owner"], "orgId": org_id}
    assert signed_in.post("/users", json=stranger).status_code == 200
    admin = signed_in.get("/users/me").json()["userId"]
    with httpx.Client(base_url=platform.url) as theirs:
        token = theirs.post("/auth/login", json=credentials).json()["accessToken"]
        theirs.headers["authorization"] = f"Bearer {token}"
        answer = theirs.get(f"/users/{admin}")
        assert (answer.status_code, reason(answer)) == (404, "USER_NOT_FOUND")
        assert [user["email"] for user in theirs.get("/users").json()["users"]] == [credentials["email"]]
