"""The keys that sign tokens, sealed at rest, and the tokens made with them."""

import base64
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_public_key,
)

from controller.iam.model import ACCESS_LIFETIME, ApiKey, User
from mesh.errors import UnavailableError
from mesh.identity import new_id, permissions_of
from mesh.tokens import ALGORITHM, AUDIENCE, ISSUER, TokenType

KEY_BITS = 2048
SEAL_FILE = "token-seal.key"
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An RSA key pair; it signs from `signs_from` on, until a newer key does. The private half is sealed."""

    key_id: str
    public_pem: str
    sealed_private_key: str
    created_at: datetime
    signs_from: datetime

    def signing_from(self, moment: datetime) -> "SigningKey":
        """The same key, used from another moment on."""
        return replace(self, signs_from=moment)

    @property
    def public(self) -> RSAPublicKey:
        """The half that verifies."""
        key = load_pem_public_key(self.public_pem.encode())
        assert isinstance(key, RSAPublicKey)
        return key


class Seal:
    """AES-256-GCM under a key that lies beside the certificate authority's, so a copy of the database signs nothing."""

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(secret)

    def close(self, content: bytes, context: str) -> str:
        """Seals; `context` must be the same to open."""
        nonce = os.urandom(_NONCE_BYTES)
        return "v1:" + base64.b64encode(nonce + self._cipher.encrypt(nonce, content, context.encode())).decode()

    def open(self, sealed: str, context: str) -> bytes | None:
        """What was sealed; None when it was sealed by another key or for another context."""
        version, _, text = sealed.partition(":")
        raw = base64.b64decode(text)
        try:
            return (
                self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], context.encode())
                if version == "v1"
                else None
            )
        except InvalidTag:
            return None


def ensure_seal(directory: Path) -> Seal:
    """The seal kept in `directory`, made by the first that asks. Controllers that share a database share this file."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / SEAL_FILE
    if not path.exists():
        _create_once(path, os.urandom(32).hex())
    return Seal(bytes.fromhex(path.read_text().strip()))


def new_signing_key(seal: Seal, now: datetime) -> SigningKey:
    """A new key pair that signs from now on. Takes a tenth of a second or more: call it in a thread."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    key_id = new_id("key")
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return SigningKey(key_id, public.decode(), seal.close(private, _seal_context(key_id)), now, now)


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key that is ready to sign."""

    key_id: str
    key: RSAPrivateKey

    @staticmethod
    def open(key: SigningKey, seal: Seal) -> "Signer | None":
        """None when the key was sealed with another seal."""
        private = seal.open(key.sealed_private_key, _seal_context(key.key_id))
        if private is None:
            return None
        opened = load_der_private_key(private, password=None)
        assert isinstance(opened, RSAPrivateKey)
        return Signer(key.key_id, opened)

    def access_token(self, user: User, token_id: str, now: datetime, limits: Mapping[str, int]) -> str:
        """The JWT of a signed-in user, with how many requests quotas allow; the edge goes by the quotas themselves."""
        until = now + ACCESS_LIFETIME
        who = (user.user_id, user.org_id, user.roles)
        return self._sign(TokenType.ACCESS, *who, token_id, now, until, limits)

    def api_key(self, key: ApiKey) -> str:
        """The JWT of an API key."""
        return self._sign(
            TokenType.API_KEY, key.user_id, key.org_id, key.roles, key.api_key_id, key.created_at, key.expires_at
        )

    def inference_token(
        self, user: User, token_id: str, now: datetime, expires_at: datetime, *, of_api_key: bool
    ) -> str:
        """The JWT of work that goes on without its user: it lets requests through to models, and has no role."""
        token_type = TokenType.API_KEY if of_api_key else TokenType.ACCESS
        return self._sign(token_type, user.user_id, user.org_id, (), token_id, now, expires_at)

    def _sign(
        self,
        token_type: TokenType,
        user_id: str,
        org_id: str,
        roles: Iterable[str],
        token_id: str,
        now: datetime,
        expires_at: datetime,
        limits: Mapping[str, int] | None = None,
    ) -> str:
        payload: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "typ": token_type.value,
            "sub": user_id,
            "org": org_id,
            "roles": sorted(roles),
            "permissions": sorted(permissions_of(frozenset(roles))),
            # An API key outlives the quotas of its day: it has none.
            "rate_limits": dict(limits or {}),
            "jti": token_id,
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": int(expires_at.timestamp()),
        }
        return jwt.encode(payload, self.key, algorithm=ALGORITHM, headers={"kid": self.key_id})


class Signers:
    """Opens signing keys, each once, and finds the one that signs now."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal
        self._opened: dict[str, Signer | None] = {}
        self._keys: tuple[SigningKey, ...] = ()

    def replace(self, keys: Iterable[SigningKey]) -> None:
        """The keys that there are now."""
        self._keys = tuple(sorted(keys, key=lambda key: key.signs_from, reverse=True))
        self._opened = {key.key_id: self._opened.get(key.key_id) or Signer.open(key, self._seal) for key in self._keys}

    def at(self, now: datetime) -> Signer:
        """The newest key that may sign and that this seal opens; UnavailableError when there is none."""
        for key in self._keys:
            signer = self._opened[key.key_id]
            if signer is not None and key.signs_from <= now:
                return signer
        raise UnavailableError("no key to sign tokens with is ready; try again in a moment")


def _seal_context(key_id: str) -> str:
    return f"signing_keys|{key_id}|sealed_private_key"


def _create_once(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        # A link fails where a rename would replace: whoever comes second takes the first one's file.
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
