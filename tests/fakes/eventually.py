"""Waits for what comes about elsewhere, as briefly as it takes and never for long."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from mesh.loops import Wake

LOOK_EVERY = timedelta(milliseconds=50)


async def eventually(
    check: Callable[[], Awaitable[object]], within_s: float = 10.0, every: timedelta = LOOK_EVERY
) -> None:
    """Returns when `check` answers something true.

    AssertionError when it does not in time: it says what was waited for, by the check's own source and the values that
    it looks at, how long, and the last answer.
    """
    seen: object = "nothing: the first look did not end"
    try:
        async with asyncio.timeout(within_s) as limit:
            while not (seen := await check()):
                await Wake().wait(every)
    except TimeoutError:
        if not limit.expired():
            raise
        raise AssertionError(_unfulfilled(check, within_s, seen)) from None


def _unfulfilled(check: Callable[[], Awaitable[object]], within_s: float, seen: object) -> str:
    looked_at: Mapping[str, object] = inspect.getclosurevars(check).nonlocals if inspect.isfunction(check) else {}
    values = "".join(f"\n  {name} = {value!r:.500}" for name, value in looked_at.items())
    return f"not within {within_s:g} s; the last look answered {seen!r:.2000}\n{_source(check)}{values}"


def _source(check: Callable[[], Awaitable[object]]) -> str:
    try:
        return inspect.cleandoc(inspect.getsource(check))
    except (OSError, TypeError):
        return repr(check)
