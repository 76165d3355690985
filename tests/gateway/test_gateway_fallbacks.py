"""A target dies under load: nobody's request fails, the traffic moves, and it comes back by itself."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
import pytest_asyncio

from stack.ports import free_port
from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.engine_process import EngineProcess, engine_process
from tests.fakes.eventually import eventually
from tests.fakes.routes import policy, target
from tests.fakes.steady_load import load
from tests.fixtures.edge import Edge

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def second() -> AsyncIterator[Engine]:
    """The engine that stays."""
    async with running_engine("second") as engine:
        engine.release.set()
        yield engine


@pytest_asyncio.fixture(loop_scope="module")
async def first(edge: Edge, second: Engine) -> AsyncIterator[EngineProcess]:
    """The engine that dies, in front of the other."""
    async with AsyncExitStack() as stack:
        dies = await stack.enter_async_context(engine_process("first", free_port()))
        await edge.route(
            policies=[
                policy(
                    "pair",
                    target(dies.engine, weight=1),
                    target(second),
                    fallbacks="second",
                    failure_threshold=3,
                    recovery_timeout_ms=1000,
                )
            ]
        )
        await edge.until_chat(200, "pair", seconds=30)
        yield dies


async def test_killing_the_first_target_under_load_fails_no_request_and_it_comes_back_by_itself(
    edge: Edge, first: EngineProcess
) -> None:
    async with load(edge, "pair") as seen:
        await seen.served_by("first")
        killed = time.monotonic()
        await first.kill()
        await seen.served_by("second")
        moved = next(when for _, who, when in seen.answers if who == "second" and when > killed)
        await first.start()
        await seen.served_by("first")
    assert seen.failed == []
    assert {status for status, _, _ in seen.answers} == {200}
    # The first answer from the other target comes at once: nobody waits for the ejection.
    # Usually a fraction of a second.
    assert moved - killed < 5.0


async def test_a_stream_that_is_cut_ends_as_cut_and_is_never_continued_by_another_target(
    edge: Edge, second: Engine
) -> None:
    async with running_engine("cut") as cut:
        chain = policy("cut-short", target(cut, weight=1), target(second), fallbacks="second")
        await edge.route(policies=[chain])
        body = {"model": "cut-short", "stream": True, "messages": [{"role": "user", "content": "one two"}]}

        async def begins() -> bool:
            async with edge.client.stream("POST", "/v1/chat/completions", json=body, headers=edge.bearer()) as answer:
                return answer.status_code == 200

        await eventually(begins, 30)
        asked, lines = len(second.seen), list[str]()
        async with edge.client.stream("POST", "/v1/chat/completions", json=body, headers=edge.bearer()) as answer:
            with pytest.raises(httpx.RemoteProtocolError):
                async for line in answer.aiter_lines():
                    if line:
                        lines.append(line)
                        for connection in list(cut.connections):
                            connection.transport.abort()
        assert len(lines) == 1
        assert len(second.seen) == asked


async def test_a_target_that_does_not_begin_to_answer_in_time_is_given_up(edge: Edge, second: Engine) -> None:
    async with running_engine("slow") as slow:
        chain = policy(
            "slow-first",
            target(slow, weight=1),
            target(second),
            fallbacks="second",
            first_byte_timeout_ms=300,
            failure_threshold=1000,
        )
        await edge.route(policies=[chain])
        await edge.until_chat(200, "slow-first", seconds=30)
        answer = await edge.chat("slow-first", "hold")
        assert (answer.status_code, answer.headers["x-aiops-degraded"]) == (200, "true")
        # A stream that has begun may take longer than its first byte.
        body = {"model": "slow-first", "stream": True, "messages": [{"role": "user", "content": "one two"}]}
        async with edge.client.stream("POST", "/v1/chat/completions", json=body, headers=edge.bearer()) as stream:
            lines = aiter(stream.aiter_lines())
            await anext(lines)
            began = time.monotonic()
            await eventually(lambda: _past(began + 0.6), 5)
            slow.release.set()
            rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert stream.headers["x-aiops-target"] == "slow"


async def _past(moment: float) -> bool:
    return time.monotonic() > moment
