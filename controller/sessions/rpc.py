"""The servicer of sessions, and one conversation with an agent from its hello to its end."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import timedelta

from aiops.nodes.v1 import node_log_service_pb2 as log_pb
from aiops.nodes.v1 import node_session_service_pb2 as pb
from aiops.nodes.v1.node_log_service_pb2_grpc import NodeLogServiceServicer
from aiops.nodes.v1.node_session_service_pb2_grpc import NodeSessionServiceServicer

from controller.hints import Hints
from controller.models.model import ModelId
from controller.nodes.convert import timestamp
from controller.nodes.enrolment import Enrolment
from controller.nodes.model import NodeId
from controller.sessions.convert import (
    acknowledgement_from_proto,
    desired_to_proto,
    heartbeat_ack_to_proto,
    hello_from_proto,
    log_page_from_proto,
    log_page_to_proto,
    log_request_to_proto,
    peer_address_from_proto,
    peers_to_proto,
    reading_from_proto,
    report_from_proto,
    status_ack_to_proto,
    welcome_to_proto,
)
from controller.sessions.model import Hello
from controller.sessions.registry import OpenSession, SessionRegistry
from controller.sessions.service import Sessions
from mesh.clock import Clock
from mesh.errors import DeadlineExceededError, FieldViolation, InvalidRequestError
from mesh.loops import Wake, to_the_end
from mesh.rpc.context import Context, caller

HELLO_PATIENCE = timedelta(seconds=10)
# An agent that hears nothing for longer dials again.
WAITING_AFTER = timedelta(seconds=3)
# When a session of an agent that says nothing looks at its node without any hint: hints of other controllers do not
# reach this process. Each heartbeat looks too.
LOOK_AFTER = timedelta(seconds=10)

Requests = AsyncIterator[pb.ConnectRequest]
Responses = list[pb.ConnectResponse]


class NodeSessionServicer(NodeSessionServiceServicer):
    """Where agents live."""

    def __init__(
        self, sessions: Sessions, registry: SessionRegistry, enrolment: Enrolment, hints: Hints, clock: Clock
    ) -> None:
        self._sessions = sessions
        self._registry = registry
        self._enrolment = enrolment
        self._hints = hints
        self._clock = clock

    def Connect(self, request_iterator: Requests, context: Context) -> AsyncIterator[pb.ConnectResponse]:
        node_id = NodeId(caller(context).subject)
        return Conversation(node_id, self._sessions, self._registry, self._hints, self._clock).run(request_iterator)

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: Context
    ) -> pb.RenewCertificateResponse:
        enrolled = await self._enrolment.renew(NodeId(caller(context).subject), request.certificate_request)
        return pb.RenewCertificateResponse(
            certificate=enrolled.certificate.pem.decode(),
            authority=enrolled.authority_pem.decode(),
            expires_at=timestamp(enrolled.certificate.expires_at),
            tunnel_address=enrolled.tunnel_address,
        )

    async def SignFile(self, request: pb.SignFileRequest, context: Context) -> pb.SignFileResponse:
        address = await self._sessions.sign(NodeId(caller(context).subject), request.sha256)
        return pb.SignFileResponse(url=address.url, expires_in_seconds=int(address.lifetime.total_seconds()))


class NodeLogServicer(NodeLogServiceServicer):
    """What other controllers call."""

    def __init__(self, registry: SessionRegistry) -> None:
        self._registry = registry

    async def ReadNodeLog(self, request: log_pb.ReadNodeLogRequest, context: Context) -> log_pb.ReadNodeLogResponse:
        node_id = NodeId(request.node_id)
        page = await self._registry.request_logs(node_id, request.workload_id, request.offset, request.limit_bytes)
        return log_pb.ReadNodeLogResponse(page=log_page_to_proto(page))


class Conversation:
    """One agent's stream. Everything is answered in turn, so a slow agent or database holds back only this stream."""

    def __init__(
        self, node_id: NodeId, sessions: Sessions, registry: SessionRegistry, hints: Hints, clock: Clock
    ) -> None:
        self._node_id = node_id
        self._sessions = sessions
        self._registry = registry
        self._hints = hints
        self._clock = clock
        self._sent_revision = 0
        self._told_at = clock.monotonic()

    async def run(self, requests: Requests) -> AsyncIterator[pb.ConnectResponse]:
        """The answers, until the agent ends the stream, or the session is superseded, or the node removed."""
        hello = await _first(requests)
        # Watching begins before the desired state is read, so that no change falls in between.
        with self._hints.watching_node(self._node_id) as wake:
            opening = asyncio.ensure_future(self._sessions.open(self._node_id, hello))
            try:
                while not (await asyncio.wait({opening}, timeout=WAITING_AFTER.total_seconds()))[0]:
                    yield pb.ConnectResponse(waiting=pb.Waiting(before=self._sessions.waiting))
            finally:
                opening.cancel()
                await asyncio.gather(opening, return_exceptions=True)
            opened = opening.result()
            cause = "the connection was lost"
            try:
                with self._registry.holding(self._node_id, opened.session_epoch, wake) as session:
                    self._sent_revision = opened.desired.revision
                    yield welcome_to_proto(opened, self._sessions.rules)
                    async with aclosing(_incoming(requests, wake)) as messages:
                        async for message in messages:
                            for answer in await self._answers(session, message):
                                yield answer
                cause = "the agent ended the session"
            finally:
                # A client that goes away ends its requests first and is cancelled a moment later.
                await to_the_end(self._sessions.close(self._node_id, opened.session_epoch, cause))

    async def _answers(self, session: OpenSession, message: pb.ConnectRequest | None) -> Responses:
        session.check()
        if message is None:
            return await self._look(session)
        match message.WhichOneof("message"):
            case "heartbeat":
                return await self._heartbeat(session, message.heartbeat)
            case "workload_status":
                return await self._workload_status(session, message.workload_status)
            case "log_page":
                session.answer(message.log_page.request_id, log_page_from_proto(message.log_page))
                return []
            case "command_ack":
                answer = acknowledgement_from_proto(message.command_ack)
                await self._sessions.acknowledge(session.node_id, session.epoch, answer)
                return []
            case "snapshot_request":
                await self._sessions.check(session.node_id, session.epoch)
                return await self._send_desired(None)
            case "peers_request":
                return [await self._peers(session, message.peers_request)]
            case kind:
                raise InvalidRequestError(FieldViolation(kind or "message", "is not what a session goes on with"))

    async def _look(self, session: OpenSession) -> Responses:
        node = await self._sessions.check(session.node_id, session.epoch)
        questions = [log_request_to_proto(each) for each in session.take_requests()]
        return questions + await self._changes(node.desired_revision)

    async def _changes(self, revision: int) -> Responses:
        if revision == self._sent_revision:
            return []
        return await self._send_desired(self._sent_revision)

    async def _send_desired(self, since: int | None) -> Responses:
        change = await self._sessions.desired(self._node_id, since)
        self._sent_revision = change.revision
        return [desired_to_proto(change)]

    async def _heartbeat(self, session: OpenSession, message: pb.Heartbeat) -> Responses:
        now = self._clock.monotonic()
        tell = now - self._told_at >= self._sessions.rules.telling.total_seconds()
        node = await self._sessions.heartbeat(session.node_id, session.epoch, reading_from_proto(message), tell=tell)
        self._told_at = now if tell else self._told_at
        if message.HasField("cached"):
            await self._sessions.cached(session.node_id, message.cached.digests)
        # Changes first: an agent that hears of a revision it does not know asks for everything.
        return [*await self._changes(node.desired_revision), heartbeat_ack_to_proto(node)]

    async def _peers(self, session: OpenSession, message: pb.PeersRequest) -> pb.ConnectResponse:
        model_id = ModelId(message.model_id)
        address = peer_address_from_proto("peers_request", message.peer_address)
        return peers_to_proto(model_id, await self._sessions.peers(session.node_id, model_id, address))

    async def _workload_status(self, session: OpenSession, message: pb.WorkloadStatus) -> Responses:
        await self._sessions.report(report_from_proto(session.node_id, session.epoch, message))
        return [status_ack_to_proto(message.sequence)]


async def _first(requests: Requests) -> Hello:
    try:
        async with asyncio.timeout(HELLO_PATIENCE.total_seconds()):
            message = await anext(requests, None)
    except TimeoutError as error:
        raise DeadlineExceededError("a session begins with hello, and none came") from error
    if message is None or message.WhichOneof("message") != "hello":
        raise InvalidRequestError(FieldViolation("hello", "must be the first message of a session"))
    return hello_from_proto(message.hello)


async def _incoming(requests: Requests, wake: Wake) -> AsyncGenerator[pb.ConnectRequest | None]:
    """Each message as it comes, and None for a hint or when nothing came for so long."""
    clock = asyncio.get_running_loop()
    heard_at = clock.time()
    reading = asyncio.ensure_future(anext(requests, None))
    hinted = asyncio.ensure_future(wake.wait(LOOK_AFTER))
    try:
        while True:
            await asyncio.wait({reading, hinted}, return_when=asyncio.FIRST_COMPLETED)
            if hinted.done():
                was_hint = hinted.result()
                hinted = asyncio.ensure_future(wake.wait(LOOK_AFTER))
                if was_hint or clock.time() - heard_at >= LOOK_AFTER.total_seconds():
                    yield None
            if reading.done():
                message, heard_at = reading.result(), clock.time()
                if message is None:
                    return
                reading = asyncio.ensure_future(anext(requests, None))
                yield message
    finally:
        reading.cancel()
        hinted.cancel()
        await asyncio.gather(reading, hinted, return_exceptions=True)
