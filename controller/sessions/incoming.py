"""What agents say, read ahead of the answers."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta

from aiops.nodes.v1 import node_session_service_pb2 as pb

from mesh.loops import Wake

# When a session of an agent that says nothing looks at its node without any hint: hints of other controllers do not
# reach this process. Each heartbeat looks too.
LOOK_AFTER = timedelta(seconds=10)
# So many messages wait here at most; then the agent does.
MOST_WAITING = 64

Requests = AsyncIterator[pb.ConnectRequest]


async def incoming(requests: Requests, wake: Wake) -> AsyncGenerator[pb.ConnectRequest | None]:
    """Each message in turn, but heartbeats first; None for a hint or when nothing came for so long.

    What a node tells of its workloads may take its time, and a lease must not run out behind it.
    """
    clock = asyncio.get_running_loop()
    heard_at = clock.time()
    backlog = Backlog()
    reading = asyncio.ensure_future(backlog.read(requests))
    hinted = asyncio.ensure_future(wake.wait(LOOK_AFTER))
    arriving = asyncio.ensure_future(backlog.filled.wait())
    try:
        while True:
            await asyncio.wait({reading, hinted, arriving}, return_when=asyncio.FIRST_COMPLETED)
            if hinted.done():
                was_hint = hinted.result()
                hinted = asyncio.ensure_future(wake.wait(LOOK_AFTER))
                if was_hint or clock.time() - heard_at >= LOOK_AFTER.total_seconds():
                    yield None
            message = backlog.take()
            if message is not None:
                heard_at = clock.time()
                yield message
            elif reading.done():
                reading.result()
                return
            if arriving.done():
                arriving = asyncio.ensure_future(backlog.filled.wait())
    finally:
        for task in (reading, hinted, arriving):
            task.cancel()
        await asyncio.gather(reading, hinted, arriving, return_exceptions=True)


class Backlog:
    """Messages that came and were not taken yet; `filled` is set while there are any."""

    def __init__(self) -> None:
        self._beats = deque[pb.ConnectRequest]()
        self._others = deque[pb.ConnectRequest]()
        self._room = asyncio.Event()
        self.filled = asyncio.Event()

    async def read(self, requests: Requests) -> None:
        """Takes messages in until the stream ends, while there is room."""
        async for message in requests:
            is_beat = message.WhichOneof("message") == "heartbeat"
            (self._beats if is_beat else self._others).append(message)
            self.filled.set()
            self._room.clear()
            while len(self._beats) + len(self._others) >= MOST_WAITING:
                await self._room.wait()
                self._room.clear()

    def take(self) -> pb.ConnectRequest | None:
        """The next one, if there is one."""
        queue = self._beats or self._others
        message = queue.popleft() if queue else None
        self._room.set()
        if not self._beats and not self._others:
            self.filled.clear()
        return message
