"""Verifies the platform's JWTs: one algorithm, known keys, our issuer and audience, in time, not revoked."""

import base64
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from mesh.clock import Clock
from mesh.errors import DomainError, Kind, UnauthenticatedError
from mesh.identity import Caller, CallerKind, OrgId, UserId, permissions_of

ISSUER = "aiops"
AUDIENCE = "aiops"
ALGORITHM = "RS256"
# Clocks of two machines may differ this much; Envoy's jwt_authn allows the same.
SKEW_S = 60
LONGEST_TOKEN = 8192
CACHED_TOKENS = 10_000
_TEXT_CLAIMS = ("iss", "sub", "org", "jti", "typ")
_TIME_CLAIMS = ("iat", "nbf", "exp")
_REQUIRED = [*_TEXT_CLAIMS, *_TIME_CLAIMS, "aud", "roles"]
# PyJWT reads the machine's clock; times are compared here, with a clock that is passed in.
_NO_TIMES = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
_OPTIONS: Any = {"require": _REQUIRED, "strict_aud": True, **_NO_TIMES}


class TokenRevokedError(DomainError):
    """The token was valid and has been revoked."""

    kind, reason = Kind.UNAUTHENTICATED, "TOKEN_REVOKED"


class TokenType(Enum):
    """What a token was made for; the `typ` claim."""

    ACCESS = "access"
    API_KEY = "api_key"


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. Times are unix seconds."""

    token_id: str
    user_id: UserId
    org_id: OrgId
    roles: frozenset[str]
    type: TokenType
    key_id: str
    not_before: int
    expires_at: int

    def caller(self) -> Caller:
        """The user who sent the token; permissions come from the roles, never from the token's own claim."""
        return Caller(CallerKind.USER, self.user_id, self.org_id, self.roles, permissions_of(self.roles), self.token_id)


@dataclass(frozen=True, slots=True)
class TokenTrust:
    """What tokens are checked against: the verification keys by `kid`, and the revoked token ids."""

    keys: Mapping[str, RSAPublicKey] = field(default_factory=dict)
    revoked: frozenset[str] = frozenset()


def trusted_keys(numbers: Mapping[str, tuple[str, str]]) -> dict[str, RSAPublicKey]:
    """Keys by `kid` from the modulus and exponent of their JWKs, in base64url (RFC 7518 §6.3.1)."""
    return {kid: RSAPublicNumbers(_number(e), _number(n)).public_key() for kid, (n, e) in numbers.items()}


def _number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


class TokenVerifier:
    """Verifies tokens against the newest trust it was given; without any, it refuses every token.

    The signature of a token is checked once; its times, its key and its revocation on every call.
    """

    def __init__(self, clock: Clock, trust: TokenTrust | None = None, *, cached_tokens: int = CACHED_TOKENS) -> None:
        self._clock = clock
        self._trust = trust or TokenTrust()
        self._cached_tokens = cached_tokens
        self._verified: OrderedDict[bytes, Claims] = OrderedDict()

    def trust(self, trust: TokenTrust) -> None:
        """Replaces what tokens are checked against, from the next call on."""
        self._trust = trust

    def verify(self, token: str) -> Claims:
        """The claims of a token; UnauthenticatedError or TokenRevokedError says why there are none."""
        digest = hashlib.sha256(token.encode()).digest()
        claims = self._verified.get(digest)
        if claims is None:
            claims = _decode(token, self._trust.keys)
            self._remember(digest, claims)
        else:
            self._verified.move_to_end(digest)
        self._check(claims)
        return claims

    def _remember(self, digest: bytes, claims: Claims) -> None:
        self._verified[digest] = claims
        if len(self._verified) > self._cached_tokens:
            self._verified.popitem(last=False)

    def _check(self, claims: Claims) -> None:
        now = self._clock.now().timestamp()
        if now >= claims.expires_at + SKEW_S:
            raise UnauthenticatedError("the token has expired; sign in again or refresh it")
        if now < claims.not_before - SKEW_S:
            raise UnauthenticatedError("the token is not valid yet; compare the clocks of the machines")
        if claims.key_id not in self._trust.keys:
            raise UnauthenticatedError("the token is signed by a key that is no longer trusted; sign in again")
        if claims.token_id in self._trust.revoked:
            raise TokenRevokedError("the token has been revoked; sign in again")


def _decode(token: str, keys: Mapping[str, RSAPublicKey]) -> Claims:
    if len(token) > LONGEST_TOKEN:
        raise _refused("it is too long")
    try:
        key_id = jwt.get_unverified_header(token).get("kid")
        key = keys.get(key_id) if isinstance(key_id, str) else None
        if key_id is None or key is None:
            raise _refused("it names no known key")
        payload = jwt.decode(token, key, algorithms=[ALGORITHM], issuer=ISSUER, audience=AUDIENCE, options=_OPTIONS)
    except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
        raise _refused("it is malformed, forged or for somebody else") from error
    return _claims(payload, key_id)


def _claims(payload: Mapping[str, Any], key_id: str) -> Claims:
    if not all(isinstance(payload[name], str) and payload[name] for name in _TEXT_CLAIMS):
        raise _refused("a claim has the wrong type")
    if not all(type(payload[name]) is int for name in _TIME_CLAIMS):
        raise _refused("a time in it is no whole number")
    roles = payload["roles"]
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise _refused("its roles are no list of names")
    if payload["typ"] not in {each.value for each in TokenType}:
        raise _refused("it is of an unknown type")
    return Claims(
        token_id=payload["jti"],
        user_id=UserId(payload["sub"]),
        org_id=OrgId(payload["org"]),
        roles=frozenset(roles),
        type=TokenType(payload["typ"]),
        key_id=key_id,
        not_before=max(payload["nbf"], payload["iat"]),
        expires_at=payload["exp"],
    )


def _refused(why: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"the token is refused: {why}; sign in again")
