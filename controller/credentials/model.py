"""A credential: a name for a secret that only the gateway gets to see."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NewType

from mesh.errors import DomainError, Kind
from mesh.identity import OrgId, UserId

CredentialId = NewType("CredentialId", str)


class CredentialNotFoundError(DomainError):
    """There is no such credential, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "CREDENTIAL_NOT_FOUND"

    def __init__(self, reference: str) -> None:
        super().__init__(f"there is no credential {reference}", credential_id=reference)


class CredentialExistsError(DomainError):
    """The organisation has a credential of that name."""

    kind, reason = Kind.EXISTS, "CREDENTIAL_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a credential named {name}; rotate that one, or choose another name", name=name)


class CredentialInUseError(DomainError):
    """Routes need it."""

    kind, reason = Kind.PRECONDITION, "CREDENTIAL_IN_USE"

    def __init__(self, name: str, routes: Sequence[str]) -> None:
        used = ", ".join(routes)
        super().__init__(f"credential {name} is used by {used}; change these routes first", routes=used)


@dataclass(frozen=True, slots=True)
class Credential:
    """The secret is sealed; whoever opens it needs the key that lies beside the authority's."""

    credential_id: CredentialId
    org_id: OrgId
    user_id: UserId
    created_at: datetime
    changed_at: datetime
    name: str
    sealed: str = field(repr=False)
    deleted_at: datetime | None = None

    def rotate(self, sealed: str, now: datetime) -> "Credential":
        """Another secret."""
        return replace(self, sealed=sealed, changed_at=now)

    def delete(self, now: datetime) -> "Credential":
        """The secret is forgotten."""
        return replace(self, sealed="", changed_at=now, deleted_at=now)


@dataclass(frozen=True, slots=True)
class CredentialChanged:
    """A credential was made, rotated or deleted."""

    credential: Credential
    at: datetime
