"""What goes back and forth while a session is open."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta

import grpc
from aiops.nodes.v1 import node_session_service_pb2 as pb

from mesh.clock import Clock
from node_agent.inventory.machine import Machine
from node_agent.peers.neighbours import Peer
from node_agent.session import convert, logs
from node_agent.session.statuses import StatusQueue
from node_agent.tunnel.model import Report, no_tunnel
from node_agent.workloads.cards import held_of_cards
from node_agent.workloads.model import DesiredStateGapError
from node_agent.workloads.service import Workloads

log = logging.getLogger(__name__)

Stream = grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]

_DEFAULT_HEARTBEAT = timedelta(seconds=5)
_DEFAULT_LEASE = timedelta(seconds=15)
_PEERS_TIMEOUT_S = 2.0


class SessionEndedError(Exception):
    """The session is over, for a reason that no status of the call tells."""


async def _nothing() -> list[str]:
    return []


class Exchange:
    """Holds one session at a time."""

    def __init__(
        self,
        node_id: str,
        workloads: Workloads,
        statuses: StatusQueue,
        machine: Machine,
        clock: Clock,
        tunnel: Callable[[], Report | None] = no_tunnel,
        cached: Callable[[], Awaitable[list[str]]] = _nothing,
    ) -> None:
        self._node_id = node_id
        self._workloads, self._statuses, self._machine, self._clock = workloads, statuses, machine, clock
        self._tunnel = tunnel
        self._cached = cached
        self._session: _Session | None = None
        self._asked: dict[str, asyncio.Future[Sequence[Peer]]] = {}

    async def peers(self, model_id: str, peer_address: str) -> Sequence[Peer]:
        """Who else has files of the model; nobody without a session, or when no answer comes."""
        if self._session is None:
            return ()
        answer = self._asked.setdefault(model_id, asyncio.get_running_loop().create_future())
        request = pb.PeersRequest(model_id=model_id, peer_address=peer_address)
        with suppress(TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async with asyncio.timeout(_PEERS_TIMEOUT_S):
                await self._session.write(pb.ConnectRequest(peers_request=request))
                return await asyncio.shield(answer)
        return ()

    async def hold(self, stream: Stream, welcome: pb.Welcome) -> None:
        """Takes on what the controller wants and keeps talking until the session ends, by raising."""
        log.info("session %d is open", welcome.session_epoch)
        self._statuses.rewind()
        session = _Session(stream, welcome, self._clock.monotonic())
        await self._open(session)
        self._session = session
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._receive(session))
                group.create_task(self._send_statuses(session))
                group.create_task(self._beat(session))
        finally:
            self._session = None

    async def _open(self, session: "_Session") -> None:
        """A welcome's state is the truth even where it is older; single decisions go before it."""
        welcome = session.welcome
        decided = [
            convert.decision_from_proto(each) for each in welcome.decisions if convert.is_plain_id(each.workload_id)
        ]
        desired = convert.desired_from_proto(welcome.desired_state)
        for answer in await self._workloads.apply(desired, decided):
            await session.write(convert.acknowledgement_to_proto(answer))

    async def _receive(self, session: "_Session") -> None:
        while True:
            message = await session.read()
            session.check(self._clock.monotonic())
            match message.WhichOneof("message"):
                case "desired_state":
                    await self._apply(session, message.desired_state)
                case "status_ack":
                    self._statuses.acknowledge(message.status_ack.sequence)
                case "heartbeat_ack":
                    session.acknowledged()
                    if message.heartbeat_ack.revision > self._workloads.revision:
                        await self._ask_for_snapshot(session)
                case "log_request":
                    page = await logs.answer(message.log_request, self._workloads)
                    await session.write(pb.ConnectRequest(log_page=page))
                case "peers":
                    self._found(message.peers)
                case other:
                    log.warning("ignored a message that this version does not know: %s", other)

    async def _apply(self, session: "_Session", message: pb.DesiredState) -> None:
        try:
            answers = await self._workloads.apply(convert.desired_from_proto(message))
        except DesiredStateGapError as error:
            log.info("%s; asking for all of it", error.message)
            await self._ask_for_snapshot(session)
            return
        for answer in answers:
            await session.write(convert.acknowledgement_to_proto(answer))

    def _found(self, message: pb.Peers) -> None:
        answer = self._asked.pop(message.model_id, None)
        if answer is not None and not answer.done():
            answer.set_result([Peer(each.node_id, each.address) for each in message.peers])

    async def _ask_for_snapshot(self, session: "_Session") -> None:
        request = pb.SnapshotRequest(last_revision=self._workloads.revision)
        await session.write(pb.ConnectRequest(snapshot_request=request))

    async def _send_statuses(self, session: "_Session") -> None:
        while True:
            sequence, status = await self._statuses.next()
            await session.write(pb.ConnectRequest(workload_status=convert.status_to_proto(status, sequence)))

    async def _beat(self, session: "_Session") -> None:
        """Heartbeats, each with the machine's gauges; ends the session when nobody has answered for a lease's time."""
        pause = session.welcome.heartbeat_seconds or _DEFAULT_HEARTBEAT.total_seconds()
        while True:
            begun = self._clock.monotonic()
            session.check(begun)
            reading, containers = await self._machine.read(), await self._workloads.containers()
            heartbeat = pb.Heartbeat(
                session_epoch=session.welcome.session_epoch,
                metrics=convert.metrics_to_proto(reading, self._node_id),
                containers=[convert.container_to_proto(each, held_of_cards(each, reading.gpus)) for each in containers],
                applied_revision=self._workloads.revision,
                tunnel=convert.tunnel_to_proto(self._tunnel()),
                runtime_report=convert.runtimes_to_proto(self._workloads.runtimes(), self._workloads.images()),
            )
            cached = await self._cached()
            if cached != session.cached:
                session.cached = cached
                heartbeat.cached.digests.extend(cached)
                heartbeat.cached.SetInParent()
            session.beaten(self._clock.monotonic())
            await session.write(pb.ConnectRequest(heartbeat=heartbeat))
            # Reading a machine whose driver hangs takes a while; the rhythm stays.
            await asyncio.sleep(max(0.0, begun + pause - self._clock.monotonic()))


class _Session:
    """The stream of one session, and how long the controller has certainly held the lease for it."""

    def __init__(self, stream: Stream, welcome: pb.Welcome, now: float) -> None:
        self._stream = stream
        self._writing = asyncio.Lock()
        self._unanswered: deque[float] = deque()
        self._known_alive = now
        self.welcome = welcome
        # What this session was told of models that are here; at first nothing, so that the first heartbeat tells.
        self.cached: list[str] | None = None

    def beaten(self, now: float) -> None:
        """A heartbeat is sent."""
        self._unanswered.append(now)

    def acknowledged(self) -> None:
        """The oldest heartbeat is answered. What counts is when it was sent: the answer may have waited with us."""
        if self._unanswered:
            self._known_alive = self._unanswered.popleft()

    def check(self, now: float) -> None:
        """Raises SessionEndedError when the lease may have run out: what was said before then binds nobody any more."""
        lease = self.welcome.lease_seconds or _DEFAULT_LEASE.total_seconds()
        if now - self._known_alive > lease:
            raise SessionEndedError(f"no heartbeat was acknowledged for {lease:.0f} s")

    async def read(self) -> pb.ConnectResponse:
        message = await self._stream.read()
        if not isinstance(message, pb.ConnectResponse):
            raise SessionEndedError("the controller closed the session")
        return message

    async def write(self, message: pb.ConnectRequest) -> None:
        async with self._writing:  # a stream takes one message at a time
            await self._stream.write(message)
