"""Who this node is: its key, its certificate, the authority it trusts, and where its controller is."""

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mesh.errors import DomainError, Kind
from mesh.rpc.channel import ClientTls

_DESCRIPTION = "node.json"


class NotJoinedError(DomainError):
    """This home belongs to no node yet."""

    kind, reason = Kind.PRECONDITION, "NODE_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's identity; certificate and authority in PEM."""

    node_id: str
    session_address: str
    certificate: str
    authority: str
    issued_at: datetime
    expires_at: datetime
    # Where tunnels to the gateway begin, host:port; empty where there are none.
    tunnel_address: str = ""


class IdentityStore:
    """The identity in the agent's home; the key never leaves it and only its owner may read it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._key = home / "node.key"
        self._certificate = home / "node.crt"
        self._authority = home / "ca.crt"

    @property
    def tls(self) -> ClientTls:
        """What a channel to the controller needs."""
        return ClientTls(self._authority, self._certificate, self._key)

    def load(self) -> Identity:
        """The identity. Raises NotJoinedError."""
        try:
            document = json.loads((self._home / _DESCRIPTION).read_text())
            return Identity(
                node_id=document["node_id"],
                session_address=document["session_address"],
                certificate=self._certificate.read_text(),
                authority=self._authority.read_text(),
                issued_at=datetime.fromisoformat(document["issued_at"]),
                expires_at=datetime.fromisoformat(document["expires_at"]),
                tunnel_address=document.get("tunnel_address", ""),
            )
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise NotJoinedError(
                f"{self._home} holds no node; make a token on the platform (`aiops nodes join-token NAME`) and use it "
                "here: aiops node join TOKEN"
            ) from error

    def key_pem(self) -> bytes | None:
        """The private key, None before the first request."""
        return self._key.read_bytes() if self._key.exists() else None

    def save_key(self, pem: bytes) -> None:
        """Keeps a private key."""
        _write(self._key, pem, 0o600)

    def save(self, identity: Identity) -> None:
        """Keeps the identity; the description last, so that there is none without the rest."""
        _write(self._authority, identity.authority.encode(), 0o644)
        _write(self._certificate, identity.certificate.encode(), 0o644)
        document = {
            "node_id": identity.node_id,
            "session_address": identity.session_address,
            "tunnel_address": identity.tunnel_address,
            "issued_at": identity.issued_at.isoformat(),
            "expires_at": identity.expires_at.isoformat(),
        }
        _write(self._home / _DESCRIPTION, json.dumps(document, indent=2).encode(), 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replaces a file durably; a reader sees the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
