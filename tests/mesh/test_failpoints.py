"""Failpoints do nothing unless they are armed, and then exactly what their setting says."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh import failpoints
from mesh.errors import ConflictError, UnavailableError
from mesh.failpoints import arm, failpoint, failpoint_sync, parse

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    """No failpoint outlives its test."""
    yield
    arm({})


async def test_nothing_is_armed_by_itself() -> None:
    await failpoint("anywhere")
    failpoint_sync("anywhere")
    assert dict(failpoints._armed) == {}


async def test_an_error_is_raised_as_often_as_asked_for() -> None:
    arm(parse("a=error:unavailable*2,b=error:aborted"))
    for _ in range(2):
        with pytest.raises(UnavailableError, match="failpoint a"):
            await failpoint("a")
    await failpoint("a")
    with pytest.raises(ConflictError):
        failpoint_sync("b")


async def test_a_share_strikes_in_the_same_passes_each_time() -> None:
    def passes() -> list[bool]:
        point = parse("a=error:aborted%20")["a"]
        return [point.strikes() for _ in range(500)]

    assert passes() == passes()
    assert 60 < sum(passes()) < 140


async def test_a_delay_delays() -> None:
    arm(parse("a=sleep:50"))
    began = time.monotonic()
    await failpoint("a")
    failpoint_sync("a")
    assert time.monotonic() - began >= 0.1


def test_a_panic_ends_the_process_as_a_kill_does() -> None:
    program = "from mesh.failpoints import *; arm(parse('a=panic')); failpoint_sync('a'); print('still here')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-9, "")


@pytest.mark.parametrize("text", ["a", "a=panik", "a=sleep", "a=error:Oops", "a=panic%x", "A B=panic"])
def test_another_form_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="AIOPS_FAILPOINTS has"):
        parse(text)
