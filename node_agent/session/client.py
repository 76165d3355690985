"""Keeps the session: dials out, says hello, takes wishes, tells what became of them, and dials again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import grpc
from aiops.nodes.v1 import node_session_service_pb2 as pb
from aiops.nodes.v1.node_session_service_pb2_grpc import NodeSessionServiceStub

from mesh.clock import Clock
from mesh.loops import Backoff, run_loop
from mesh.names import SESSION_NAME
from mesh.patience import within
from mesh.rpc.addresses import PATIENCE, Addresses
from mesh.rpc.channel import called, open_channel
from mesh.rpc.status import error_from_rpc
from node_agent.enrollment.identity import IdentityStore
from node_agent.inventory.machine import Machine
from node_agent.session import convert
from node_agent.session.exchange import Exchange, SessionEndedError, Stream
from node_agent.tunnel.model import Report
from node_agent.workloads.service import Workloads

log = logging.getLogger(__name__)

_WELCOME_TIMEOUT_S = 10.0
# Reasons why dialling again soon changes nothing.
_PATIENT_REASONS = {"NODE_REMOVED", "SESSION_SUPERSEDED", "NODE_MISMATCH"}
_PATIENCE = 5
# A session that lasted so long is no failure; a shorter one is, or a flapping link would be dialled without pause.
_STABLE_S = 10.0


@dataclass(frozen=True, slots=True)
class Presence:
    """What the node says of itself in Hello; `peer_address` answers where it offers files to other nodes."""

    node_id: str
    boot_id: str
    version: str
    address: str
    engines: tuple[str, ...]
    tunnel: Callable[[], Report | None]
    peer_address: Callable[[], Awaitable[str]]


class SessionClient:
    """One session after another, for ever."""

    def __init__(
        self,
        target: Addresses,
        identity: IdentityStore,
        presence: Presence,
        workloads: Workloads,
        machine: Machine,
        exchange: Exchange,
        clock: Clock,
        backoff: Backoff | None = None,
    ) -> None:
        self._target, self._identity, self._presence = target, identity, presence
        self._workloads, self._machine, self._exchange, self._clock = workloads, machine, exchange, clock
        self._backoff = backoff or Backoff(timedelta(milliseconds=500), timedelta(seconds=6))
        self._failures = 0
        self.open = False

    async def run(self) -> None:
        """Holds sessions until cancelled."""
        await run_loop("session", self._step, interval=timedelta(0))

    async def _step(self) -> timedelta | None:
        """One session; how long to wait before the next."""
        reason, target = "", self._target.now
        try:
            async with open_channel(target, self._identity.tls, options=[*called(SESSION_NAME), *PATIENCE]) as channel:
                await self._hold(NodeSessionServiceStub(channel).Connect())
        except* grpc.aio.AioRpcError as group:
            reason = _describe(group)
        except* (SessionEndedError, TimeoutError, asyncio.InvalidStateError) as group:
            reason = reason or "; ".join(str(each) or "no answer in time" for each in group.exceptions)
        self._failures += _PATIENCE if any(each in reason for each in _PATIENT_REASONS) else 1
        pause = self._backoff.pause(self._failures)
        # Each controller has its turn: the one that held the session may be gone for good.
        self._target.turn()
        log.warning("session with %s ended: %s; next try in %.1f s", target, reason, pause.total_seconds())
        return pause

    async def _hold(self, stream: Stream) -> None:
        await stream.write(pb.ConnectRequest(hello=await self._hello()))
        first = await _first(stream)
        while isinstance(first, pb.ConnectResponse) and first.HasField("waiting"):
            log.info("waiting for the session; about %d nodes are before this one", first.waiting.before)
            first = await _first(stream)
        if not isinstance(first, pb.ConnectResponse) or not first.HasField("welcome"):
            raise SessionEndedError("the controller did not say welcome")
        self._stay_within(timedelta(seconds=first.welcome.lease_seconds))
        self.open, opened_at = True, self._clock.monotonic()
        try:
            await self._exchange.hold(stream, first.welcome)
        finally:
            self.open = False
            if self._clock.monotonic() - opened_at > _STABLE_S:
                self._failures = 0

    def _stay_within(self, lease: timedelta) -> None:
        """A controller that is back waits a lease for its nodes: none may sleep so long before it dials again."""
        if lease:
            self._backoff = replace(self._backoff, limit=min(self._backoff.limit, lease / 3))

    async def _hello(self) -> pb.Hello:
        reading, presence = await self._machine.read(), self._presence
        runtimes = self._workloads.runtimes()
        return pb.Hello(
            node_id=presence.node_id,
            boot_id=presence.boot_id,
            agent_version=presence.version,
            inventory=convert.inventory_to_proto(reading),
            runtimes=runtimes.names,
            engines=presence.engines,
            workloads=[convert.status_to_proto(each) for each in self._workloads.statuses()],
            last_revision=self._workloads.revision,
            address=presence.address,
            tunnel=convert.tunnel_to_proto(presence.tunnel()),
            peer_address=await presence.peer_address(),
            runtime_report=convert.runtimes_to_proto(runtimes, self._workloads.images()),
        )


async def _first(stream: Stream) -> object:
    async with within(_WELCOME_TIMEOUT_S, "the controller did not say welcome"):
        return await stream.read()


def _describe(group: BaseExceptionGroup[grpc.aio.AioRpcError]) -> str:
    """What the call ended with; the same error reaches reader and writer, so the first tells it."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, grpc.aio.AioRpcError)
    remote = error_from_rpc(first)
    return f"{remote.reason or remote.code.name}: {remote.message}"
