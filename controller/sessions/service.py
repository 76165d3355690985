"""What this area needs of deployments, and what a session does with nodes and deployments."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from controller.deployments.workload import DesiredChange, WorkloadReport
from controller.distribution.model import Address, Peer
from controller.models.model import ModelId
from controller.nodes.heartbeats import Beat
from controller.nodes.liveness import Liveness, LivenessRules
from controller.nodes.model import Container, NodeId, NodeMismatchError, SessionSupersededError
from controller.nodes.standing import Standing
from controller.sessions.admission import Admission
from controller.sessions.model import Acknowledgement, Hello, Opened, Reading, decide
from mesh.errors import UnavailableError
from mesh.failpoints import failpoint

# However many agents speak at once, they take turns on few connections; the rest of the pool is for everyone else.
SPEAKING_AT_ONCE = 4


class Workloads(Protocol):
    """What nodes are to run, and where their reports go."""

    async def desired(self, node_id: NodeId, since: int | None) -> DesiredChange:
        """What changed after revision `since`, or everything."""
        ...

    async def apply_report(self, report: WorkloadReport) -> None:
        """Stores what a node says of a workload. SessionSupersededError for a report of an older session."""
        ...

    def measure(self, containers: Sequence[Container]) -> None:
        """Takes in what a heartbeat says of the engines on a node."""
        ...

    async def miss_unheard(self, node_id: NodeId, session_epoch: int) -> None:
        """Takes what the node did not name in its new session for gone."""
        ...


class Distribution(Protocol):
    """Nodes that read model files from each other."""

    async def announce(self, node_id: NodeId, address: str) -> None:
        """The node offers files at `host:port`, or none when empty."""
        ...

    async def keep_cached(self, node_id: NodeId, digests: Sequence[str]) -> None:
        """The node has the files of these models."""
        ...

    async def peers(self, node_id: NodeId, model_id: ModelId) -> Sequence[Peer]:
        """Who else has files of the model, or fetches them."""
        ...

    async def sign(self, node_id: NodeId, sha256: str) -> Address:
        """Where the node can read a file in object storage, for a while."""
        ...


class Sessions:
    """The use cases of a node's session. Each checks, in the transaction that acts, that no newer session is open."""

    def __init__(
        self, liveness: Liveness, workloads: Workloads, distribution: Distribution, admission: Admission
    ) -> None:
        self._liveness = liveness
        self._workloads = workloads
        self._distribution = distribution
        self._admission = admission
        self._speaking = asyncio.Semaphore(SPEAKING_AT_ONCE)

    @property
    def rules(self) -> LivenessRules:
        """The lease and the rhythm of heartbeats."""
        return self._liveness.rules

    @property
    def waiting(self) -> int:
        """How many nodes wait for their sessions to open."""
        return self._admission.waiting

    async def open(self, node_id: NodeId, hello: Hello) -> Opened:
        """The next session of the node that the certificate names. NodeMismatchError when the message names another."""
        if hello.node_id != node_id:
            raise NodeMismatchError(
                f"the certificate is node {node_id}'s, the message says {hello.node_id!r}; join again", node_id=node_id
            )
        async with self._admission.turn():
            node = await self._liveness.open_session(node_id, hello.greeting)
            await self._distribution.announce(node_id, hello.peer_address)
            await failpoint("session.opened")
            for report in hello.workloads:
                await self._workloads.apply_report(replace(report, session_epoch=node.session_epoch))
            await self._workloads.miss_unheard(node_id, node.session_epoch)
            desired = await self._workloads.desired(node_id, None)
            await failpoint("session.told")
        return Opened(node.session_epoch, desired, decide(hello.workloads, desired))

    async def heartbeat(self, node_id: NodeId, session_epoch: int, reading: Reading, *, tell: bool) -> Standing:
        """Renews the node's lease and keeps its reading."""
        if reading.session_epoch != session_epoch:
            raise SessionSupersededError(node_id)
        # Not in turn with the others: heartbeats that come together are written together, over one connection.
        beat = Beat(node_id, session_epoch, reading.gauges, reading.containers, reading.applied_revision, tell=tell)
        node = await self._liveness.heartbeat(beat)
        self._workloads.measure(reading.containers)
        return node

    async def cached(self, node_id: NodeId, digests: Sequence[str]) -> None:
        """The node has the files of these models."""
        async with self._speaking:
            await self._distribution.keep_cached(node_id, digests)

    async def check(self, node_id: NodeId, session_epoch: int) -> Standing:
        """The node as it is now. SessionSupersededError, NodeRemovedError."""
        async with self._speaking:
            return await self._liveness.check_session(node_id, session_epoch)

    async def report(self, report: WorkloadReport) -> None:
        """Stores what the node says of a workload."""
        async with self._speaking:
            await self._workloads.apply_report(report)

    async def acknowledge(self, node_id: NodeId, session_epoch: int, answer: Acknowledgement) -> None:
        """Tells that the node accepted or rejected a command."""
        async with self._speaking:
            await self._liveness.acknowledge(
                node_id, session_epoch, answer.request_id, accepted=answer.accepted, cause=answer.cause
            )

    async def desired(self, node_id: NodeId, since: int | None) -> DesiredChange:
        """What the node is to run: what changed after revision `since`, or everything."""
        async with self._speaking:
            return await self._workloads.desired(node_id, since)

    async def peers(self, node_id: NodeId, model_id: ModelId, peer_address: str) -> Sequence[Peer]:
        """Other nodes to read the model's files from; the node itself offers its own at `peer_address`."""
        async with self._speaking:
            await self._distribution.announce(node_id, peer_address)
            return await self._distribution.peers(node_id, model_id)

    async def sign(self, node_id: NodeId, sha256: str) -> Address:
        """Where the node can read a file that it was told to have. FileNotNamedError, StorageUnavailableError."""
        return await self._distribution.sign(node_id, sha256)

    async def close(self, node_id: NodeId, session_epoch: int, cause: str) -> None:
        """The stream ended. Without a database the lease tells the same, later."""
        with suppress(UnavailableError):
            # Not in turn with the others: it may be the last thing this task can still do.
            await self._liveness.close_session(node_id, session_epoch, cause)
