"""A controller that speaks the node session's contract over real mutual TLS and remembers what it was told."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from aiops.nodes.v1 import node_session_service_pb2 as pb
from aiops.nodes.v1 import node_session_service_pb2_grpc as pb_grpc

from mesh.names import JOIN_NAME, SESSION_NAME
from mesh.pki import SpiffeId, ensure_authority, issue_service, requested_by
from mesh.rpc.call import Context
from mesh.rpc.server import OPTIONS

SECRET = "a-secret-of-enough-length"
WAIT_S = 20.0


class FakeController(pb_grpc.NodeSessionServiceServicer, pb_grpc.NodeEnrollmentServiceServicer):
    """One node's controller. `desired` is what Welcome tells; `send` adds to what an open session is told."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = ensure_authority(directory)
        self._server: grpc.aio.Server | None = None
        self._changed = asyncio.Event()
        self._outgoing: list[asyncio.Queue[pb.ConnectResponse]] = []
        self.acknowledge = True
        self.lifetime = timedelta(hours=1)
        self.refusal: grpc.StatusCode | None = None
        self.refused = 0
        self.port = 0
        self.join_port = 0
        self.desired = pb.DesiredState(revision=1, snapshot=True)
        self.decisions: list[pb.AdoptionDecision] = []
        self.hellos: list[pb.Hello] = []
        self.statuses: list[pb.WorkloadStatus] = []
        self.received: list[pb.ConnectRequest] = []
        self.renewals = 0
        self.joins = 0
        # The keys that joined.
        self.joined_with: list[str] = []
        # Where files can be read, by SHA-256, and those that were asked for.
        self.addresses: dict[str, str] = {}
        self.signed: list[str] = []
        self.closed = 0
        self.answer_heartbeats = True
        self.lease_seconds = 4

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def join_url(self) -> str:
        return f"https://127.0.0.1:{self.join_port}"

    @property
    def join_token(self) -> str:
        content = {"secret": SECRET, "ca": self._authority.pem.decode()}
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()

    async def start(self) -> None:
        """Listens, on the same ports as before if there was a before."""
        certificate, key = issue_service(self._directory, "controller", (SESSION_NAME, JOIN_NAME))
        chain = [(key.read_bytes(), certificate.read_bytes())]
        mutual = grpc.ssl_server_credentials(chain, self._authority.pem, require_client_auth=True)
        self._server = grpc.aio.server(options=OPTIONS)
        pb_grpc.add_NodeSessionServiceServicer_to_server(self, self._server)
        pb_grpc.add_NodeEnrollmentServiceServicer_to_server(self, self._server)
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", mutual)
        self.join_port = self._server.add_secure_port(f"127.0.0.1:{self.join_port}", grpc.ssl_server_credentials(chain))
        await self._server.start()

    async def stop(self) -> None:
        if self._server:
            await self._server.stop(0)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def want(self, *workloads: pb.WorkloadSpec) -> None:
        """Sets the whole desired state and tells the open session by a delta."""
        base = self.desired.revision
        kept = {each.workload_id: each for each in self.desired.workloads} | {
            each.workload_id: each for each in workloads
        }
        self.desired = pb.DesiredState(revision=base + 1, snapshot=True, workloads=kept.values())
        self.send(desired_state=pb.DesiredState(revision=base + 1, base_revision=base, workloads=workloads))

    def send(self, **message: Any) -> None:
        """Sends to the open session."""
        for queue in self._outgoing[-1:]:
            queue.put_nowait(pb.ConnectResponse(**message))

    async def until(self, condition: Callable[["FakeController"], object], wait_s: float = WAIT_S) -> None:
        """Waits until the condition holds of what was received."""
        async with asyncio.timeout(wait_s):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()

    async def until_status(
        self, workload_id: str, state: str, wait_s: float = WAIT_S, after: int = 0
    ) -> pb.WorkloadStatus:
        """The first status of the workload in that state, from the `after`th one on."""

        def match() -> list[pb.WorkloadStatus]:
            wanted = pb.WorkloadStatus.State.Value(state)
            return [each for each in self.statuses[after:] if each.workload_id == workload_id and each.state == wanted]

        try:
            await self.until(lambda _: match(), wait_s)
        except TimeoutError:
            raise AssertionError(f"no status {state} of {workload_id} among {self.statuses}") from None
        return match()[0]

    async def until_event(self, event: str, after: int = 0) -> pb.WorkloadStatus:
        """The first status that tells of such an event, from the `after`th one on."""
        await self.until(lambda it: any(each.event == event for each in it.statuses[after:]))
        return next(each for each in self.statuses[after:] if each.event == event)

    async def until_received(self, kind: str) -> pb.ConnectRequest:
        """The first message of that kind."""
        await self.until(lambda it: any(each.WhichOneof("message") == kind for each in it.received))
        return next(each for each in self.received if each.WhichOneof("message") == kind)

    async def read_log(self, workload_id: str, offset: int, limit: int) -> pb.LogPage:
        """Asks for a page of a log and waits for it."""
        request = pb.LogRequest(
            request_id=f"log-{len(self.received)}", workload_id=workload_id, offset=offset, limit_bytes=limit
        )
        self.send(log_request=request)

        def answers() -> list[pb.LogPage]:
            return [each.log_page for each in self.received if each.log_page.request_id == request.request_id]

        await self.until(lambda _: answers())
        return answers()[0]

    async def Connect(
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        first = await anext(request_iterator)
        if self.refusal:
            self.refused += 1
            self._changed.set()
            await context.abort(self.refusal, "not now")
        self.hellos.append(first.hello)
        queue: asyncio.Queue[pb.ConnectResponse] = asyncio.Queue()
        self._outgoing.append(queue)
        self._changed.set()
        welcome = pb.Welcome(
            session_epoch=len(self.hellos),
            lease_seconds=self.lease_seconds,
            heartbeat_seconds=1,
            desired_state=self.desired,
            decisions=self.decisions,
        )
        # As a controller with others at its door.
        yield pb.ConnectResponse(waiting=pb.Waiting(before=1))
        yield pb.ConnectResponse(welcome=welcome)
        reading = asyncio.ensure_future(self._read(request_iterator, queue))
        try:
            while True:
                yield await queue.get()
        finally:
            reading.cancel()
            self.closed += 1
            self._changed.set()

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: Context
    ) -> pb.RenewCertificateResponse:
        self.renewals += 1
        self._changed.set()
        issued = self._authority.issue_from_request(
            request.certificate_request, SpiffeId("node", "node-1"), self.lifetime
        )
        response = pb.RenewCertificateResponse(certificate=issued.pem.decode(), authority=self._authority.pem.decode())
        response.expires_at.FromDatetime(issued.expires_at)
        return response

    async def SignFile(self, request: pb.SignFileRequest, context: Context) -> pb.SignFileResponse:
        url = self.addresses.get(request.sha256)
        if url is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing is to run that has the file")
        self.signed.append(request.sha256)
        return pb.SignFileResponse(url=url, expires_in_seconds=60)

    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinResponse:
        self.joins += 1
        self.joined_with.append(requested_by(request.certificate_request))
        if request.token != SECRET:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token was used already")
        issued = self._authority.issue_from_request(
            request.certificate_request, SpiffeId("node", "node-1"), self.lifetime
        )
        response = pb.JoinResponse(
            node_id="node-1",
            certificate=issued.pem.decode(),
            authority=self._authority.pem.decode(),
            session_address=self.address,
        )
        response.expires_at.FromDatetime(issued.expires_at)
        return response

    async def _read(self, messages: AsyncIterator[pb.ConnectRequest], queue: asyncio.Queue[pb.ConnectResponse]) -> None:
        async for message in messages:
            self.received.append(message)
            match message.WhichOneof("message"):
                case "workload_status":
                    self.statuses.append(message.workload_status)
                    if self.acknowledge:
                        stored = pb.StatusAck(sequence=message.workload_status.sequence)
                        queue.put_nowait(pb.ConnectResponse(status_ack=stored))
                case "heartbeat" if self.answer_heartbeats:
                    heard = pb.HeartbeatAck(revision=self.desired.revision)
                    queue.put_nowait(pb.ConnectResponse(heartbeat_ack=heard))
                case "snapshot_request":
                    queue.put_nowait(pb.ConnectResponse(desired_state=self.desired))
            self._changed.set()
