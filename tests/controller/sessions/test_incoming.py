"""What an agent says is taken in turn, but a heartbeat does not wait behind what takes its time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta

import pytest
from aiops.nodes.v1 import node_session_service_pb2 as pb

from controller.sessions.incoming import MOST_WAITING, Backlog, incoming
from mesh.loops import Wake
from tests.fakes.eventually import eventually


def status(number: int) -> pb.ConnectRequest:
    return pb.ConnectRequest(workload_status=pb.WorkloadStatus(sequence=number))


def beat(number: int) -> pb.ConnectRequest:
    return pb.ConnectRequest(heartbeat=pb.Heartbeat(applied_revision=number))


class Stream:
    """Messages that come as soon as they are asked for, then silence or an error."""

    def __init__(self, *messages: pb.ConnectRequest, ending: Exception | None = None) -> None:
        self._messages, self._ending = list(messages), ending
        self.read = 0

    def __aiter__(self) -> AsyncIterator[pb.ConnectRequest]:
        return self

    async def __anext__(self) -> pb.ConnectRequest:
        if not self._messages:
            if self._ending is not None:
                raise self._ending
            await asyncio.Event().wait()
        self.read += 1
        return self._messages.pop(0)


async def test_heartbeats_overtake_reports_and_reports_keep_their_order() -> None:
    stream = Stream(status(1), status(2), beat(1), status(3), beat(2), ending=StopAsyncIteration())
    backlog = Backlog()
    await backlog.read(stream)
    taken = [backlog.take() for _ in range(6)]
    assert taken == [beat(1), beat(2), status(1), status(2), status(3), None]
    assert not backlog.filled.is_set()


async def test_an_agent_that_says_too_much_waits() -> None:
    stream, backlog = Stream(*(status(number) for number in range(2 * MOST_WAITING))), Backlog()
    reading = asyncio.ensure_future(backlog.read(stream))

    async def has_read(count: int) -> bool:
        return stream.read == count

    await eventually(lambda: has_read(MOST_WAITING))
    assert backlog.take() == status(0)
    await eventually(lambda: has_read(MOST_WAITING + 1))
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_a_hint_comes_between_and_the_end_comes_last() -> None:
    wake = Wake()
    async with aclosing(incoming(Stream(status(1), ending=StopAsyncIteration()), wake)) as messages:
        assert await anext(messages) == status(1)
        assert await anext(messages, None) is None
    async with aclosing(incoming(Stream(), wake)) as messages:
        wake.set()
        async with asyncio.timeout(timedelta(seconds=5).total_seconds()):
            assert await anext(messages) is None


async def test_what_breaks_the_stream_is_raised_after_what_came_before() -> None:
    stream = Stream(status(1), ending=ConnectionError("gone"))
    async with aclosing(incoming(stream, Wake())) as messages:
        assert await anext(messages) == status(1)
        with pytest.raises(ConnectionError, match="gone"):
            await anext(messages)
