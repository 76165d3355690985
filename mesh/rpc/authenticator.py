"""Finds out who calls: peers of the mesh by their certificate, users by their token."""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from mesh.clock import Clock
from mesh.errors import UnauthenticatedError
from mesh.identity import ANONYMOUS, Caller, CallerKind
from mesh.pki import identity_of, validity_of
from mesh.rpc.call import PeerCertificate
from mesh.tokens import TokenVerifier

KEPT_CERTIFICATES = 1024


@dataclass(frozen=True, slots=True)
class _Peer:
    caller: Caller
    expires_at: datetime


class PeerAuthenticator:
    """Nodes and services by the SPIFFE id in the certificate that mutual TLS proved."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._peers: OrderedDict[bytes, _Peer] = OrderedDict()

    async def authenticate(self, metadata: dict[str, str], peer: PeerCertificate | None) -> Caller:
        """The peer; ANONYMOUS without a certificate; UnauthenticatedError when it has run out or names no identity."""
        del metadata
        if peer is None:
            return ANONYMOUS
        known = self._peers.get(peer.pem) or self._remember(peer.pem)
        # The handshake checked it too, but a connection may outlive the certificate it began with.
        if self._clock.now() > known.expires_at:
            raise UnauthenticatedError("the certificate has run out; renew it and connect again")
        return known.caller

    def _remember(self, pem: bytes) -> _Peer:
        peer = self._peers[pem] = _read(pem)
        if len(self._peers) > KEPT_CERTIFICATES:
            self._peers.popitem(last=False)
        return peer


class TokenAuthenticator:
    """Users by `authorization: Bearer <token>`; without one, peers by their certificate."""

    def __init__(self, verifier: TokenVerifier, peers: PeerAuthenticator) -> None:
        self._verifier = verifier
        self._peers = peers

    async def authenticate(self, metadata: dict[str, str], peer: PeerCertificate | None) -> Caller:
        """The caller. A token that is refused is never passed over in favour of the certificate."""
        header = metadata.get("authorization")
        if header is None:
            return await self._peers.authenticate(metadata, peer)
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise UnauthenticatedError("the authorization header must be `Bearer <token>`")
        return self._verifier.verify(token.strip()).caller()


def _read(pem: bytes) -> _Peer:
    identity = identity_of(pem)
    kind = CallerKind.NODE if identity.kind == "node" else CallerKind.SERVICE
    return _Peer(Caller(kind, subject=identity.name), validity_of(pem)[1])
