"""Users whose token says in plain text who they are; peers prove themselves by certificate as ever."""

from mesh.errors import UnauthenticatedError
from mesh.identity import Caller, CallerKind, OrgId, permissions_of
from mesh.rpc.authenticator import PeerAuthenticator
from mesh.rpc.call import PeerCertificate

Metadata = tuple[tuple[str, str], ...]


def user(org_id: str, role: str = "organization.owner") -> Metadata:
    """The credentials of a user of that organisation with that role."""
    return (("authorization", f"Bearer {org_id}/{role}"),)


class PlainCallers:
    """Takes `Bearer <organisation>/<role>` at its word."""

    def __init__(self, peers: PeerAuthenticator) -> None:
        self._peers = peers

    async def authenticate(self, metadata: dict[str, str], peer: PeerCertificate | None) -> Caller:
        header = metadata.get("authorization")
        if header is None:
            return await self._peers.authenticate(metadata, peer)
        org_id, _, role = header.removeprefix("Bearer ").partition("/")
        if not role:
            raise UnauthenticatedError("the token is not valid")
        roles = frozenset({role})
        return Caller(CallerKind.USER, f"user-of-{org_id}", OrgId(org_id), roles, permissions_of(roles))
