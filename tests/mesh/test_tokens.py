"""Tokens are believed only when ours, in time and not revoked."""

import base64
import hashlib
import hmac
import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mesh.errors import UnauthenticatedError
from mesh.identity import CallerKind
from mesh.tokens import TokenRevokedError, TokenTrust, TokenType, TokenVerifier
from tests.fakes.clock import ManualClock

OURS = rsa.generate_private_key(public_exponent=65537, key_size=2048)
THEIRS = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC_PEM = OURS.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def verifier(clock: ManualClock) -> TokenVerifier:
    return TokenVerifier(clock, TokenTrust({"key-1": OURS.public_key()}))


def payload(clock: ManualClock, **changed: Any) -> dict[str, Any]:
    """What a good token says, with some claims changed; a claim changed to None is missing."""
    now = int(clock.now().timestamp())
    good = {
        "iss": "aiops",
        "aud": "aiops",
        "typ": "access",
        "sub": "user-1",
        "org": "org-1",
        "roles": ["organization.viewer"],
        "permissions": ["manage_organizations"],
        "jti": "token-1",
        "iat": now,
        "nbf": now,
        "exp": now + 900,
    }
    return {name: value for name, value in (good | changed).items() if value is not None}


def base64url(raw: bytes) -> str:
    """As JSON Web Tokens write bytes."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def signed(claims: dict[str, Any], key: rsa.RSAPrivateKey = OURS, **header: Any) -> str:
    """A token signed with RS256."""
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": "key-1", **header})


def assembled(header: object, claims: object, signature: bytes = b"") -> str:
    """A token put together by hand."""
    parts = [json.dumps(part).encode() for part in (header, claims)]
    return ".".join(base64url(part) for part in [*parts, signature])


def signed_by_hand(claims: dict[str, Any]) -> str:
    """A token with our signature, also of claims that the library would refuse to sign."""
    header = {"alg": "RS256", "kid": "key-1"}
    unsigned = assembled(header, claims).removesuffix(".")
    return assembled(header, claims, jwt.get_algorithm_by_name("RS256").sign(unsigned.encode(), OURS))


def test_a_good_token_names_its_user(verifier: TokenVerifier, clock: ManualClock) -> None:
    claims = verifier.verify(signed(payload(clock)))
    assert (claims.user_id, claims.org_id, claims.token_id, claims.type) == (
        "user-1",
        "org-1",
        "token-1",
        TokenType.ACCESS,
    )
    assert verifier.verify(signed(payload(clock))) is claims


def test_permissions_come_from_the_roles_and_not_from_the_token(verifier: TokenVerifier, clock: ManualClock) -> None:
    caller = verifier.verify(signed(payload(clock))).caller()
    assert caller.kind is CallerKind.USER
    assert caller.permissions == {"view_metrics", "chat"}


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "somebody"},
        {"iss": ["aiops"]},
        {"aud": "another"},
        {"aud": ["aiops", "another"]},
        {"typ": "refresh"},
        {"typ": 1},
        {"sub": ""},
        {"sub": 7},
        {"org": ""},
        {"jti": ""},
        {"roles": "universe.owner"},
        {"roles": [1]},
        {"exp": "9999999999"},
        {"exp": 1e300},
        {"exp": True},
        {"nbf": "0"},
        *({name: None} for name in ("iss", "aud", "typ", "sub", "org", "roles", "jti", "iat", "nbf", "exp")),
    ],
    ids=str,
)
def test_claims_that_are_wrong_or_missing_are_refused(
    verifier: TokenVerifier, clock: ManualClock, changed: dict[str, Any]
) -> None:
    assert verifier.verify(signed_by_hand(payload(clock)))
    with pytest.raises(UnauthenticatedError):
        verifier.verify(signed_by_hand(payload(clock, **changed)))


@pytest.mark.parametrize(
    "key_id", ["key-2", "", "../../etc/passwd", "/dev/null", "key-1\0", "' OR 1=1 --", ["key-1"], {"a": 1}, 1, None]
)
def test_a_key_that_is_not_ours_is_not_looked_for(verifier: TokenVerifier, clock: ManualClock, key_id: object) -> None:
    with pytest.raises(UnauthenticatedError):
        verifier.verify(assembled({"alg": "RS256", "kid": key_id}, payload(clock), b"x" * 256))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS256", "RS384", "PS256", "ES256", None, 7])
def test_only_one_algorithm_is_believed(verifier: TokenVerifier, clock: ManualClock, algorithm: object) -> None:
    for signature in (b"", b"x" * 256):
        with pytest.raises(UnauthenticatedError):
            verifier.verify(assembled({"alg": algorithm, "kid": "key-1"}, payload(clock), signature))


def test_the_public_key_is_no_shared_secret(verifier: TokenVerifier, clock: ManualClock) -> None:
    unsigned = assembled({"alg": "HS256", "kid": "key-1"}, payload(clock)).rstrip(".")
    for secret in (PUBLIC_PEM, PUBLIC_PEM.strip()):
        forged = hmac.new(secret, unsigned.encode(), hashlib.sha256).digest()
        with pytest.raises(UnauthenticatedError):
            verifier.verify(f"{unsigned}.{base64url(forged)}")


def test_a_key_sent_along_is_not_believed(verifier: TokenVerifier, clock: ManualClock) -> None:
    theirs = json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(THEIRS.public_key()))
    for header in ({"jwk": theirs}, {"jku": "https://example.org/keys"}, {"x5u": "file:///tmp/key"}, {}):
        with pytest.raises(UnauthenticatedError):
            verifier.verify(signed(payload(clock), THEIRS, **header))


def test_a_changed_token_is_refused(verifier: TokenVerifier, clock: ManualClock) -> None:
    header, _, signature = signed(payload(clock)).split(".")
    raised = base64url(json.dumps(payload(clock, roles=["universe.owner"])).encode())
    with pytest.raises(UnauthenticatedError):
        verifier.verify(f"{header}.{raised}.{signature}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "x" * 9000,
        "\N{SNOWMAN}.a.b",
        assembled([], {}),
        assembled({"alg": "RS256", "kid": "key-1"}, []),
        base64.urlsafe_b64encode(b"[" * 5000).decode() + ".e30.e30",
    ],
    ids=range(9),
)
def test_what_is_no_token_is_refused(verifier: TokenVerifier, text: str) -> None:
    with pytest.raises(UnauthenticatedError):
        verifier.verify(text)


def test_times_are_kept_with_a_minute_of_tolerance(verifier: TokenVerifier, clock: ManualClock) -> None:
    token = signed(payload(clock))
    clock.advance(timedelta(seconds=900 + 59))
    assert verifier.verify(token).token_id == "token-1"
    clock.advance(timedelta(seconds=2))
    with pytest.raises(UnauthenticatedError):
        verifier.verify(token)


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_from_the_future_is_refused(verifier: TokenVerifier, clock: ManualClock, claim: str) -> None:
    future = int(clock.now().timestamp()) + 120
    token = signed(payload(clock, **{claim: future}))
    with pytest.raises(UnauthenticatedError):
        verifier.verify(token)
    clock.advance(timedelta(seconds=61))
    assert verifier.verify(token)


def test_a_remembered_token_is_refused_once_revoked(verifier: TokenVerifier, clock: ManualClock) -> None:
    token = signed(payload(clock))
    verifier.verify(token)
    verifier.trust(TokenTrust({"key-1": OURS.public_key()}, frozenset({"token-1"})))
    with pytest.raises(TokenRevokedError):
        verifier.verify(token)


def test_a_remembered_token_is_refused_once_its_key_is_gone(verifier: TokenVerifier, clock: ManualClock) -> None:
    token = signed(payload(clock))
    verifier.verify(token)
    verifier.trust(TokenTrust({"key-2": OURS.public_key()}))
    with pytest.raises(UnauthenticatedError):
        verifier.verify(token)


def test_without_trust_every_token_is_refused(clock: ManualClock) -> None:
    with pytest.raises(UnauthenticatedError):
        TokenVerifier(clock).verify(signed(payload(clock)))


def test_few_tokens_are_remembered(clock: ManualClock) -> None:
    verifier = TokenVerifier(clock, TokenTrust({"key-1": OURS.public_key()}), cached_tokens=2)
    tokens = [signed(payload(clock, jti=f"token-{number}")) for number in range(3)]
    first = verifier.verify(tokens[0])
    verifier.verify(tokens[1])
    assert verifier.verify(tokens[0]) is first
    second = verifier.verify(tokens[1])
    verifier.verify(tokens[2])
    assert verifier.verify(tokens[1]) is second
    assert verifier.verify(tokens[0]) is not first
