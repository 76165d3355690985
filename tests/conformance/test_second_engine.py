"""A real vLLM dies under load with a real llama.cpp behind the same name: no request fails, and it comes back."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest
import pytest_asyncio

from node_agent.engines.engine import EngineSpec
from node_agent.engines.llamacpp import LlamaCpp
from stack.ports import free_port
from tests.conformance.conftest import AGENT_ENVIRONMENT
from tests.conformance.served import NAME, Served, running, started, until_ready
from tests.fakes.engine_http import Engine
from tests.fakes.routes import policy, target
from tests.fakes.steady_load import load
from tests.fixtures.engines import ENGINE_TIMEOUT_S

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(ENGINE_TIMEOUT_S)]
ALIAS = "pair"
CLIENTS = 3
# Usually a fraction of a second; two engines and their clients share the cores of one machine here.
MOVED_S = 10.0


@pytest_asyncio.fixture(loop_scope="package")
async def pair(
    served: Served, models: dict[str, Path], llamacpp_executable: Path, tmp_path: Path
) -> AsyncIterator[Served]:
    """vLLM in front of llama.cpp, behind one name."""
    if served.engine != "vllm":
        pytest.skip("the first of the two is vLLM")
    spec = EngineSpec(NAME, models["llamacpp"], tmp_path, "127.0.0.1", free_port())
    plan = LlamaCpp(llamacpp_executable, AGENT_ENVIRONMENT).plan(spec)
    async with running(plan) as second:
        await until_ready(plan, second)
        chain = policy(
            ALIAS,
            target(Engine("vllm", served.port), model=NAME, weight=1),
            target(Engine("llamacpp", spec.port), model=NAME),
            fallbacks="llamacpp",
            failure_threshold=3,
            recovery_timeout_ms=1000,
        )
        await served.edge.route(served.route, policies=[chain])
        patience, served.edge.client.timeout = served.edge.client.timeout, httpx.Timeout(120)
        try:
            await served.edge.until_chat(200, ALIAS, seconds=60)
            yield served
        finally:
            served.edge.client.timeout = patience
            await served.edge.route(served.route)


async def test_killing_vllm_under_load_fails_no_request_and_it_comes_back_by_itself(pair: Served) -> None:
    edge = pair.edge
    async with load(edge, ALIAS, CLIENTS, max_tokens=2) as seen:
        await seen.served_by("vllm")
        lines, killed = await _stream_that_is_cut(pair)
        await seen.served_by("llamacpp")
        moved = next(when for _, who, when in seen.answers if who == "llamacpp" and when > killed)
    # It starts on the same few cores that the load would take.
    pair.process = await started(pair.plan)
    await until_ready(pair.plan, pair.process)
    async with load(edge, ALIAS, CLIENTS, max_tokens=2) as after:
        await after.served_by("vllm")
    assert seen.failed + after.failed == []
    assert {status for status, _, _ in seen.answers + after.answers} == {200}
    assert moved - killed < MOVED_S
    # The client of the stream is told that it is not whole, by a cut or an event, and gets no other engine's words.
    assert "data: [DONE]" not in lines
    assert lines[-1] == "cut" or '"error"' in lines[-1]


async def _stream_that_is_cut(pair: Served) -> tuple[list[str], float]:
    """Kills vLLM while it streams; what the client got, and when that was."""
    messages = [{"role": "user", "content": "Count."}]
    body = {"model": ALIAS, "messages": messages, "stream": True, "max_tokens": 400, "ignore_eos": True}
    lines, killed = list[str](), 0.0
    try:
        async with pair.edge.client.stream(
            "POST", "/v1/chat/completions", json=body, headers=pair.edge.bearer()
        ) as answer:
            async for line in answer.aiter_lines():
                lines += [line] if line else []
                if not killed:
                    killed = time.monotonic()
                    _kill(pair)
    except httpx.RemoteProtocolError:
        lines.append("cut")
    await pair.process.wait()
    return lines, killed


def _kill(pair: Served) -> None:
    """vLLM and the processes that it computes in, as a crash of their machine would."""
    first = psutil.Process(pair.process.pid)
    for process in [*first.children(recursive=True), first]:
        process.kill()
