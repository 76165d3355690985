"""Callers that ask the same at once share a read, and never one that began before they asked."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from mesh.loops import Wake
from mesh.sharing import SharedReads, SharedWrites


class Source:
    """A value that is read when a test lets a read end."""

    def __init__(self) -> None:
        self.value = 0
        self.begun = 0
        self.may_end = asyncio.Semaphore(0)

    async def read(self) -> int:
        self.begun += 1
        seen = self.value
        await self.may_end.acquire()
        if seen < 0:
            raise ValueError(seen)
        return seen


async def settle() -> None:
    await Wake().wait(timedelta(milliseconds=5))


async def ask(shared: SharedReads[int], source: Source, callers: int = 1) -> "list[asyncio.Task[int]]":
    tasks = [asyncio.ensure_future(shared.get("key", source.read)) for _ in range(callers)]
    await settle()
    return tasks


async def test_callers_that_come_during_a_read_share_the_next_one_and_see_what_changed() -> None:
    shared, source = SharedReads[int](), Source()
    first = await ask(shared, source)
    source.value = 1
    later = await ask(shared, source, callers=5)
    assert source.begun == 1
    source.may_end.release()
    source.may_end.release()
    async with asyncio.timeout(1):
        assert await asyncio.gather(*first) == [0]
        assert await asyncio.gather(*later) == [1] * 5
    assert source.begun == 2
    assert not shared._waiting
    assert not shared._reading


async def test_keys_do_not_wait_for_each_other() -> None:
    shared, source, other = SharedReads[int](), Source(), Source()
    (held,) = await ask(shared, source)
    other.may_end.release()
    async with asyncio.timeout(1):
        assert await shared.get("other", other.read) == 0
    source.may_end.release()
    await held


async def test_an_error_reaches_every_caller_and_the_next_read_is_free_of_it() -> None:
    shared, source = SharedReads[int](), Source()
    first = await ask(shared, source)
    source.value = -1
    later = await ask(shared, source, callers=3)
    source.may_end.release()
    source.may_end.release()
    await asyncio.gather(*first)
    answers = await asyncio.gather(*later, return_exceptions=True)
    assert [type(answer) for answer in answers] == [ValueError] * 3
    source.value = 2
    source.may_end.release()
    assert await shared.get("key", source.read) == 2


@pytest.mark.parametrize("during_read", [False, True])
async def test_a_caller_that_gives_up_leaves_the_others_their_answer(during_read: bool) -> None:
    shared, source = SharedReads[int](), Source()
    first = await ask(shared, source)
    leader, *others = await ask(shared, source, callers=4)
    if during_read:
        source.may_end.release()
        await settle()
    leader.cancel()
    await settle()
    for _ in range(3):
        source.may_end.release()
    async with asyncio.timeout(1):
        assert await asyncio.gather(*others) == [0] * 3
        await asyncio.gather(*first)
    assert leader.cancelled()
    assert not shared._waiting
    assert not shared._reading


class Sink:
    """Writes numbers: those below zero are refused one by one, and a hundred fails the whole write."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def write(self, numbers: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(numbers))
        await settle()
        if 100 in numbers:
            raise ConnectionError("the sink is away")
        return [number * 2 if number >= 0 else ValueError(number) for number in numbers]


async def test_what_comes_together_is_written_together_and_everybody_gets_their_own_answer() -> None:
    sink = Sink()
    shared = SharedWrites[int, int](sink.write, most=3)
    answers = await asyncio.gather(*(shared.put(number) for number in (1, -2, 3, 4)), return_exceptions=True)
    assert sink.batches == [[1, -2, 3], [4]]
    assert [answer if isinstance(answer, int) else type(answer) for answer in answers] == [2, ValueError, 6, 8]


async def test_a_write_that_fails_fails_its_callers_and_nobody_later() -> None:
    sink = Sink()
    shared = SharedWrites[int, int](sink.write)
    failed = await asyncio.gather(shared.put(100), shared.put(1), return_exceptions=True)
    assert [type(each) for each in failed] == [ConnectionError, ConnectionError]
    gone = asyncio.ensure_future(shared.put(5))
    kept = asyncio.ensure_future(shared.put(6))
    await asyncio.sleep(0)
    gone.cancel()
    assert await kept == 12
