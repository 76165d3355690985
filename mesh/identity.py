"""Who calls, what they may do, and how objects are named."""

import base64
import os
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType

OrgId = NewType("OrgId", str)
UserId = NewType("UserId", str)


class CallerKind(Enum):
    """How a caller proved who they are."""

    ANONYMOUS = "anonymous"
    USER = "user"
    NODE = "node"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity behind a call.

    `subject` is the user id, node id or service name. `token_id` is the `jti` of the credential, empty without one.
    """

    kind: CallerKind
    subject: str = ""
    org_id: OrgId = OrgId("")
    roles: frozenset[str] = field(default_factory=frozenset)
    permissions: frozenset[str] = field(default_factory=frozenset)
    token_id: str = ""

    @property
    def user_id(self) -> UserId:
        """The user behind the call; empty for nodes and services."""
        return UserId(self.subject if self.kind is CallerKind.USER else "")

    @property
    def sees_all(self) -> bool:
        """Whether the caller reads every organisation: universe roles, nodes and services."""
        if self.kind in (CallerKind.NODE, CallerKind.SERVICE):
            return True
        return any(role.startswith("universe.") for role in self.roles)


ANONYMOUS = Caller(CallerKind.ANONYMOUS)
# The service itself, for work that nobody asked for: reconcilers, relays, first start.
SYSTEM = Caller(CallerKind.SERVICE, subject="system")

_READ = frozenset({"view_metrics", "chat"})
_EDIT = _READ | {"deploy_models", "register_nodes", "create_agents", "deploy_tools"}
PERMISSIONS_BY_ROLE: dict[str, frozenset[str]] = {
    "universe.owner": _EDIT | {"manage_users", "allow_pickle", "manage_organizations"},
    "universe.editor": _EDIT,
    "universe.viewer": _READ,
    "organization.owner": _EDIT | {"manage_users", "allow_pickle"},
    "organization.editor": _EDIT,
    "organization.viewer": _READ,
}


def permissions_of(roles: frozenset[str]) -> frozenset[str]:
    """What the roles together allow; names of `aiops.policy.v1.Permission`. An unknown role allows nothing."""
    return frozenset().union(*(PERMISSIONS_BY_ROLE.get(role, frozenset()) for role in roles))


def new_id(prefix: str) -> str:
    """A new object id, e.g. `node-0c5m2k9v7t1hq8x4bnae`: 40 bits of time, so that ids sort by age, then 60 random."""
    milliseconds = (time.time_ns() // 1_000_000) & 0xFF_FFFF_FFFF
    raw = milliseconds.to_bytes(5, "big") + os.urandom(8)
    return f"{prefix}-{base64.b32hexencode(raw).decode().lower()[:20]}"
