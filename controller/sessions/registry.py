"""The sessions that are open in this process, one per node, and the log requests that wait for their answers."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from controller.nodes.model import LogPage, NodeId, NodeUnreachableError, SessionSupersededError
from controller.sessions.model import LogRequest
from mesh.errors import ExhaustedError
from mesh.identity import new_id
from mesh.loops import Wake

MOST_LOG_REQUESTS = 32


class OpenSession:
    """One open stream of a node."""

    def __init__(self, node_id: NodeId, epoch: int, wake: Wake) -> None:
        self.node_id = node_id
        self.epoch = epoch
        self._wake = wake
        self._superseded = False
        self._to_send: deque[LogRequest] = deque()
        self._waiting: dict[str, asyncio.Future[LogPage]] = {}

    def check(self) -> None:
        """SessionSupersededError when the node has a newer session in this process."""
        if self._superseded:
            raise SessionSupersededError(self.node_id)

    def supersede(self) -> None:
        """A newer session took over; this one ends as soon as it wakes."""
        self._superseded = True
        self._wake.set()

    def take_requests(self) -> list[LogRequest]:
        """The log requests to send now."""
        taken = list(self._to_send)
        self._to_send.clear()
        return taken

    async def request_logs(self, workload_id: str, offset: int, limit: int, patience: timedelta) -> LogPage:
        """Asks the agent and waits for its answer."""
        if len(self._waiting) >= MOST_LOG_REQUESTS:
            raise ExhaustedError(
                f"node {self.node_id} has {MOST_LOG_REQUESTS} log requests open; try again in a moment"
            )
        request = LogRequest(new_id("log"), workload_id, offset, limit)
        answer: asyncio.Future[LogPage] = asyncio.get_running_loop().create_future()
        self._waiting[request.request_id] = answer
        self._to_send.append(request)
        self._wake.set()
        try:
            async with asyncio.timeout(patience.total_seconds()):
                return await answer
        except TimeoutError as error:
            raise _silent(self.node_id) from error
        finally:
            del self._waiting[request.request_id]

    def answer(self, request_id: str, page: LogPage) -> None:
        """The agent's answer; one that nobody waits for any more is dropped."""
        waiting = self._waiting.get(request_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(page)

    def close(self) -> None:
        """The stream is over; whoever waits for an answer is told."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(_absent(self.node_id))


class SessionRegistry:
    """The open session of each node. An old session's end never removes a newer one."""

    def __init__(self, *, patience: timedelta = timedelta(seconds=10)) -> None:
        self._patience = patience
        self._sessions: dict[NodeId, OpenSession] = {}

    @contextmanager
    def holding(self, node_id: NodeId, epoch: int, wake: Wake) -> Iterator[OpenSession]:
        """The node's session while the block lasts. SessionSupersededError when there is a newer one already."""
        before = self._sessions.get(node_id)
        if before is not None and before.epoch > epoch:
            raise SessionSupersededError(node_id)
        session = self._sessions[node_id] = OpenSession(node_id, epoch, wake)
        if before is not None:
            before.supersede()
        try:
            yield session
        finally:
            session.close()
            if self._sessions.get(node_id) is session:
                del self._sessions[node_id]

    def open_epoch(self, node_id: NodeId) -> int | None:
        """The epoch of the node's session in this process, if there is one."""
        session = self._sessions.get(node_id)
        return session.epoch if session else None

    async def request_logs(self, node_id: NodeId, workload_id: str, offset: int, limit: int) -> LogPage:
        """A piece of a workload's log. NodeUnreachableError without a session here, or without an answer in time."""
        session = self._sessions.get(node_id)
        if session is None:
            raise _absent(node_id)
        return await session.request_logs(workload_id, offset, limit, self._patience)


def _absent(node_id: NodeId) -> NodeUnreachableError:
    return NodeUnreachableError(f"node {node_id} has no open session; see whether its agent runs", node_id=node_id)


def _silent(node_id: NodeId) -> NodeUnreachableError:
    return NodeUnreachableError(f"node {node_id} did not answer in time; try again", node_id=node_id)
