"""When no target can answer, a route that has a fixed answer gives it, and says so."""

import json
from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from gateway.usage.journal import path_in
from gateway.usage.record import record
from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.eventually import eventually
from tests.fakes.routes import policy, target
from tests.fixtures.edge import Edge

pytestmark = pytest.mark.asyncio(loop_scope="module")
SORRY = 'We are "busy"; try again in a few minutes.\nThank you ☺'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def failing(edge: Edge) -> AsyncIterator[Engine]:
    """An engine that refuses everything, and routes that have an answer for that."""
    async with running_engine("full") as engine:
        engine.release.set()
        gone = Engine("gone", port=1)
        await edge.route(
            policies=[
                policy("none", degraded_answer=SORRY),
                policy("down", target(gone, weight=1), degraded_answer=SORRY, failure_threshold=1000),
                policy(
                    "full", target(gone, weight=1), target(engine), fallbacks="full", degraded_answer=SORRY,
                    retry_statuses=[500], failure_threshold=1000,
                ),
                policy("well", target(engine, weight=1), degraded_answer=SORRY),
            ]
        )  # fmt: skip
        await edge.until_chat(200, "well", seconds=30)
        engine.failing = True
        yield engine


@pytest.mark.parametrize("model", ["none", "down", "full"])
async def test_a_chat_that_nobody_can_answer_gets_the_fixed_answer(edge: Edge, failing: Engine, model: str) -> None:
    answer = await edge.chat(model)
    assert answer.status_code == 200, answer.text
    assert (answer.headers["x-aiops-degraded"], answer.headers["x-aiops-target"]) == ("true", "~answer")
    chat = answer.json()
    assert (chat["object"], chat["model"]) == ("chat.completion", model)
    assert chat["choices"][0]["message"] == {"role": "assistant", "content": SORRY}

    async def told() -> bool:
        lines = path_in(edge.home / "usage").read_bytes().replace(b"\0", b"").splitlines()
        every = [used for line in lines if (used := record(line, "u")) is not None]
        mine = [used for used in every if used.request_id == answer.headers["x-request-id"]]
        return [(used.target, used.degraded, used.status, used.output_tokens) for used in mine] == [
            ("~answer", True, 200, 0)
        ]

    await eventually(told, 30)


async def test_the_sdk_reads_it_whole_as_a_stream_and_as_a_completion(edge: Edge, failing: Engine) -> None:
    key = edge.bearer()["authorization"].removeprefix("Bearer ")
    async with openai.AsyncOpenAI(base_url=f"{edge.url}/v1", api_key=key, max_retries=0) as client:
        chat = await client.chat.completions.create(model="down", messages=[{"role": "user", "content": "hi"}])
        assert chat.choices[0].message.content == SORRY
        stream = await client.chat.completions.create(
            model="down", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == SORRY
        assert chunks[-1].choices[0].finish_reason == "stop"
        completion = await client.completions.create(model="down", prompt="hi")
        assert completion.choices[0].text == SORRY


async def test_what_is_no_chat_is_refused(edge: Edge, failing: Engine) -> None:
    answer = await edge.client.post("/v1/embeddings", json={"model": "none", "input": "hi"}, headers=edge.bearer())
    assert answer.status_code == 503
    assert json.loads(answer.text)["error"]["type"] == "server_error"
