"""How a machine becomes a node: a one-use token for a certificate, and a fresh certificate before that one ends."""

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.nodes.model import (
    Invitation,
    JoinTokenInvalidError,
    Node,
    NodeId,
    NodeNotFoundError,
    NodeRemovedError,
)
from controller.nodes.service import UnitOfWork, Work
from mesh.failpoints import failpoint
from mesh.identity import SYSTEM
from mesh.pki import NODE_LIFETIME, Authority, IssuedCertificate, SpiffeId, requested_by

JOIN_TOKEN_LIFETIME = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What agents dial: the URL to join at, `host:port` of the sessions, and of the tunnels where there are any."""

    join_url: str
    session_address: str
    tunnel_address: str = ""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A node's identity and where it goes from here."""

    node_id: NodeId
    certificate: IssuedCertificate
    authority_pem: bytes
    session_address: str
    tunnel_address: str


class Enrolment:
    """Join tokens and node certificates."""

    def __init__(self, unit_of_work: UnitOfWork, authority: Authority, endpoints: Endpoints) -> None:
        self._unit_of_work = unit_of_work
        self._authority = authority
        self._endpoints = endpoints

    @property
    def join_url(self) -> str:
        """Where agents join."""
        return self._endpoints.join_url

    async def invite(self, work: Work, node: Node, now: datetime) -> Invitation:
        """A new token for the node, as part of `work`; the node's earlier tokens end.

        It carries the authority's certificate, so that whoever joins knows the controller from an impostor, and says
        where and until when it can be used.
        """
        secret = secrets.token_urlsafe(32)
        expires_at = now + JOIN_TOKEN_LIFETIME
        await work.join_tokens.replace(node, _hash(secret), expires_at)
        content = {
            "secret": secret,
            "ca": self._authority.pem.decode(),
            "url": self._endpoints.join_url,
            "made": int(now.timestamp()),
            "until": int(expires_at.timestamp()),
        }
        token = base64.urlsafe_b64encode(json.dumps(content).encode()).decode()
        return Invitation(token, expires_at, self._endpoints.join_url)

    async def join(self, secret: str, request_der: bytes) -> Enrolled:
        """Trades a token's secret and a certificate request for a certificate over the request's key.

        While the token is good, the key that used it gets the same identity again: the answer may have been lost on
        the way. JoinTokenInvalidError for a token that another key used, that has run out or never was. A refused
        request uses up no token.
        """
        key = requested_by(request_der)
        async with self._unit_of_work(SYSTEM) as work:
            node_id = await work.join_tokens.redeem(_hash(secret), key, await work.nodes.now())
            if node_id is None:
                raise JoinTokenInvalidError()
            enrolled = self._issue(node_id, request_der)
            await failpoint("join.redeemed")
            await work.commit()
            await failpoint("join.committed")
            return enrolled

    async def renew(self, node_id: NodeId, request_der: bytes) -> Enrolled:
        """A fresh certificate. NodeRemovedError for a node that left the fleet."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            try:
                node = await work.nodes.get(node_id, SYSTEM)
            except NodeNotFoundError as error:
                raise NodeRemovedError(node_id) from error
        return self._issue(node.node_id, request_der)

    def _issue(self, node_id: NodeId, request_der: bytes) -> Enrolled:
        # Other nodes call it by its id: wherever it is, it is this node that answers.
        identity = SpiffeId("node", node_id)
        certificate = self._authority.issue_from_request(request_der, identity, NODE_LIFETIME, (node_id,))
        endpoints = self._endpoints
        return Enrolled(node_id, certificate, self._authority.pem, endpoints.session_address, endpoints.tunnel_address)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
