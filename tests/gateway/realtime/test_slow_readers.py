"""A reader who does not read is ended with a reason, costs little, and delays nobody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from gateway.realtime.connection import TOO_SLOW, UNSENT_BYTES, Connection
from gateway.realtime.outgoing import Frame, Kind
from tests.fakes.eventually import eventually

FRAME = Frame(Kind.CRITICAL, b"x" * 8 * 1024)
# More than the queue, the unsent bytes and the buffers of the system hold.
MANY = 4_000
HEARD_WITHIN_S = 60.0


@asynccontextmanager
async def two_connections(connections: list[Connection]) -> AsyncIterator[int]:
    """A server that keeps what it is sent to in the list; yields its port."""

    async def hold(socket: ServerConnection) -> None:
        connection = Connection(socket)
        connections.append(connection)
        await socket.wait_closed()
        await connection.ended()

    async with serve(hold, "127.0.0.1", 0, compression=None, write_limit=UNSENT_BYTES, ping_interval=None) as server:
        yield next(iter(server.sockets)).getsockname()[1]


async def test_one_who_does_not_read_is_ended_and_the_others_hear_everything() -> None:
    connections: list[Connection] = []
    async with two_connections(connections) as port:
        url = f"ws://127.0.0.1:{port}"
        # A client that takes nothing from its socket once its own buffer is full.
        stalled = await connect(url, compression=None, max_queue=1, ping_interval=None, proxy=None)
        async with connect(url, compression=None, ping_interval=None, proxy=None) as reader:
            await eventually(lambda: there(connections))
            slow, fast = connections
            heard = 0
            async with asyncio.timeout(HEARD_WITHIN_S):
                for _ in range(MANY):
                    for each in (slow, fast):
                        each.send(FRAME)
                    assert len(await reader.recv()) == len(FRAME.text)
                    heard += 1
            assert heard == MANY
            assert slow.ending == TOO_SLOW
            assert fast.ending is None
        stalled.transport.abort()


async def there(connections: list[Connection]) -> bool:
    """Whether both have come."""
    return len(connections) == 2
