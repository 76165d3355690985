"""What must not stay half done is done, however often its caller is cancelled meanwhile."""

import asyncio

import pytest

from mesh.loops import to_the_end


async def test_a_cancelled_caller_ends_when_the_work_is_done() -> None:
    go_on, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        done.set()

    caller = asyncio.ensure_future(to_the_end(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert done.is_set()


async def test_an_error_of_the_work_is_the_callers() -> None:
    async def work() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        await to_the_end(work())
