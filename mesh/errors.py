"""The errors that a service raises on purpose; the rpc kernel turns them into google.rpc.Status."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar


class Kind(Enum):
    """What sort of refusal an error is, free of any transport."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    EXISTS = "exists"
    PRECONDITION = "precondition"
    ABORTED = "aborted"
    EXHAUSTED = "exhausted"
    UNAVAILABLE = "unavailable"
    DEADLINE = "deadline"
    UNIMPLEMENTED = "unimplemented"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class DomainError(Exception):
    """Something that went wrong in a way the caller should understand.

    Subclasses set `kind` and `reason`; `reason` is a name in `aiops.errors.v1.Reason`. The message says what happened,
    why, and what to do next. Metadata values are strings that a program can act on.
    """

    kind: ClassVar[Kind] = Kind.INTERNAL
    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata

    @property
    def violations(self) -> tuple["FieldViolation", ...]:
        """The request fields at fault, when there are any."""
        return ()


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request and what is wrong with it. `field` is the proto path, e.g. `files[2].sha256`."""

    field: str
    description: str


class InvalidRequestError(DomainError):
    """The request breaks its contract; names every field at fault."""

    kind, reason = Kind.INVALID, "INVALID_REQUEST"

    def __init__(self, *violations: FieldViolation) -> None:
        super().__init__("; ".join(f"{violation.field}: {violation.description}" for violation in violations))
        self._violations = violations

    @property
    def violations(self) -> tuple[FieldViolation, ...]:
        return self._violations


class InvalidPageTokenError(DomainError):
    """The page token was not made by this list, or not with these filters."""

    kind, reason = Kind.INVALID, "INVALID_PAGE_TOKEN"


class RequestIdReusedError(DomainError):
    """The request id was used before, for another request."""

    kind, reason = Kind.PRECONDITION, "REQUEST_ID_REUSED"


class UnauthenticatedError(DomainError):
    """The caller has not proven who they are."""

    kind, reason = Kind.UNAUTHENTICATED, "UNAUTHENTICATED"


class PermissionDeniedError(DomainError):
    """The caller is known and may not do this."""

    kind, reason = Kind.FORBIDDEN, "PERMISSION_DENIED"


class NotFoundError(DomainError):
    """There is no such object, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "NOT_FOUND"


class ConflictError(DomainError):
    """Somebody else changed the object at the same time; repeating the call helps."""

    kind, reason = Kind.ABORTED, "CONFLICT"


class ExhaustedError(DomainError):
    """A limit is reached; the metadata says which."""

    kind, reason = Kind.EXHAUSTED, "RESOURCE_EXHAUSTED"


class DeadlineExceededError(DomainError):
    """The call took longer than its deadline."""

    kind, reason = Kind.DEADLINE, "DEADLINE_EXCEEDED"


class UnavailableError(DomainError):
    """Something this service needs is away; repeating the call later helps."""

    kind, reason = Kind.UNAVAILABLE, "UNAVAILABLE"


class UnimplementedError(DomainError):
    """This version does not do that."""

    kind, reason = Kind.UNIMPLEMENTED, "UNIMPLEMENTED"
