"""Keeps the node's certificate fresh: a new one at half of its life."""

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
from aiops.nodes.v1 import node_session_service_pb2 as pb
from aiops.nodes.v1.node_session_service_pb2_grpc import NodeSessionServiceStub

from mesh.clock import Clock
from mesh.names import SESSION_NAME
from mesh.rpc.addresses import Addresses
from mesh.rpc.channel import called, open_channel
from node_agent.enrollment.identity import Identity, IdentityStore

log = logging.getLogger(__name__)

_TIMEOUT_S = 15.0
_LONGEST_PAUSE = timedelta(minutes=10)


class Renewal:
    """A loop's step; sessions that open afterwards use the new certificate."""

    def __init__(self, store: IdentityStore, session_address: Addresses, clock: Clock) -> None:
        self._store, self._address, self._clock = store, session_address, clock

    async def step(self) -> timedelta | None:
        """Renews when it is time; answers when to look again."""
        identity, now = self._store.load(), self._clock.now()
        due = identity.issued_at + (identity.expires_at - identity.issued_at) / 2
        if now < due:
            return min(due - now, _LONGEST_PAUSE)
        if now >= identity.expires_at:
            log.error(
                "the certificate of node %s ended at %s; make a new join token (`aiops nodes join-token`) and join "
                "again; what runs here keeps running",
                identity.node_id,
                identity.expires_at,
            )
            return _LONGEST_PAUSE
        try:
            await self._renew(identity, now)
        except grpc.aio.AioRpcError as error:
            log.warning("cannot renew the certificate yet: %s: %s", error.code().name, error.details())
            self._address.turn()
        return None

    async def _renew(self, identity: Identity, now: datetime) -> None:
        from node_agent.enrollment.request import certificate_request

        request = pb.RenewCertificateRequest(certificate_request=certificate_request(self._store.key_pem() or b""))
        async with open_channel(self._address.now, self._store.tls, options=called(SESSION_NAME)) as channel:
            response = await NodeSessionServiceStub(channel).RenewCertificate(request, timeout=_TIMEOUT_S)
        self._store.save(
            replace(
                identity,
                certificate=response.certificate,
                authority=response.authority,
                issued_at=now,
                expires_at=response.expires_at.ToDatetime(tzinfo=UTC),
                tunnel_address=response.tunnel_address,
            )
        )
        log.info("the certificate of node %s is renewed", identity.node_id)
