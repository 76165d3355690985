"""A bounded wait says what did not happen, and passes on what is not its own timeout."""

import asyncio

import pytest

from mesh.patience import within


async def test_a_wait_that_is_too_long_says_what_did_not_happen() -> None:
    with pytest.raises(TimeoutError, match=r"^the broker did not answer within 0\.01 s$"):
        async with within(0.01, "the broker did not answer"):
            await asyncio.Event().wait()


async def test_a_timeout_of_what_is_waited_for_is_passed_on() -> None:
    with pytest.raises(TimeoutError, match=r"^the inner one$"):
        async with within(10, "not this"):
            raise TimeoutError("the inner one")


async def test_a_cancelled_wait_is_cancelled() -> None:
    async def wait() -> None:
        async with within(10, "not this"):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
