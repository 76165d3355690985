"""OpenAI's Python SDK as it comes, with the gateway as its base URL."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.clients.conftest import Gateway
from tests.fakes.provider import Reply, call, chat, chunks

pytestmark = pytest.mark.asyncio(loop_scope="package")
ASKED: Any = [{"role": "user", "content": "Hello!"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
MODELS = pytest.mark.parametrize("model", ["far", "claude"])


class City(BaseModel):
    """What a structured answer holds."""

    name: str
    people: int


@pytest_asyncio.fixture(loop_scope="package")
async def client(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway.edge.url}/v1", api_key=gateway.key, max_retries=0) as client:
        yield client


def limited(**headers: str) -> Reply:
    return Reply({"error": {"message": "slow down", "type": "rate_limit_error"}}, status=429, headers=headers)


async def test_chat_and_stream_with_a_model_of_the_platform(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="tiny", messages=ASKED)
    assert answer.choices[0].message.content == "tiny: Hello!"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 5
    stream = await client.chat.completions.create(
        model="tiny", messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    told = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in told if chunk.choices) == "Hello!"
    assert told[-1].usage is not None


@MODELS
async def test_tools(client: AsyncOpenAI, gateway: Gateway, model: str) -> None:
    gateway.provider.script(gateway.calls(model))
    answer = await client.chat.completions.create(model=model, messages=ASKED, tools=[TOOL], tool_choice="required")
    (called,) = answer.choices[0].message.tool_calls or []
    assert called.type == "function"
    assert (called.function.name, json.loads(called.function.arguments)) == ("weather", {"city": "Köln"})
    assert answer.choices[0].finish_reason == "tool_calls"
    gateway.provider.script(gateway.answers(model, "sunny"))
    result: Any = {"role": "tool", "tool_call_id": called.id, "content": "21 °C"}
    spoken: Any = answer.choices[0].message
    after = await client.chat.completions.create(model=model, messages=[*ASKED, spoken, result], tools=[TOOL])
    assert after.choices[0].message.content == "sunny"


@MODELS
async def test_a_stream_with_tools_is_put_together_by_the_sdk(
    client: AsyncOpenAI, gateway: Gateway, model: str
) -> None:
    gateway.provider.script(gateway.calls(model, streamed=True))
    async with client.chat.completions.stream(model=model, messages=ASKED, tools=[TOOL]) as stream:
        final = await stream.get_final_completion()
    (called,) = final.choices[0].message.tool_calls or []
    assert (called.function.name, json.loads(called.function.arguments)) == ("weather", {"city": "Köln"})


@MODELS
async def test_structured_output(client: AsyncOpenAI, gateway: Gateway, model: str) -> None:
    gateway.provider.script(gateway.answers(model, '{"name": "Köln", "people": 1}'))
    answer = await client.chat.completions.parse(model=model, messages=ASKED, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Köln", people=1)
    asked = gateway.provider.asked()
    schema = asked["output_config"]["format"] if model == "claude" else asked["response_format"]["json_schema"]
    assert set(schema["schema"]["properties"]) == {"name", "people"}


async def test_embeddings_completions_and_responses(client: AsyncOpenAI, gateway: Gateway) -> None:
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
    gateway.provider.script(Reply({"object": "list", "data": [vector], "model": "far", "usage": usage}))
    vectors = await client.embeddings.create(model="far", input="text", encoding_format="float")
    assert vectors.data[0].embedding == [0.5, 0.25]
    text = {"index": 0, "text": "and so on", "finish_reason": "stop", "logprobs": None}
    gateway.provider.script(
        Reply({"id": "c", "object": "text_completion", "created": 1, "model": "far", "choices": [text]})
    )
    assert (await client.completions.create(model="far", prompt="It was")).choices[0].text == "and so on"
    said = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [
        {"type": "output_text", "text": "good", "annotations": []}
    ]}  # fmt: skip
    gateway.provider.script(Reply({"id": "r", "object": "response", "created_at": 1, "model": "far", "output": [said]}))
    assert (await client.responses.create(model="far", input="Hello!")).output_text == "good"
    assert gateway.provider.seen[-1].path == "/proxy/v1/responses"


async def test_models_are_listed_and_described(client: AsyncOpenAI) -> None:
    assert {model.id async for model in client.models.list()} == {"tiny", "far", "claude"}
    assert (await client.models.retrieve("far")).object == "model"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("huge")


async def test_errors_are_the_sdks_own(client: AsyncOpenAI, gateway: Gateway) -> None:
    with pytest.raises(openai.NotFoundError, match="deployed are: claude, far, tiny") as missing:
        await client.chat.completions.create(model="huge", messages=ASKED)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="nonsense").chat.completions.create(model="tiny", messages=ASKED)
    with pytest.raises(openai.BadRequestError, match="too long"):
        await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "refuse"}])
    gateway.provider.script(limited(**{"retry-after": "7"}))
    with pytest.raises(openai.RateLimitError, match="slow down") as limit:
        await client.chat.completions.create(model="far", messages=ASKED)
    assert limit.value.response.headers["retry-after"] == "7"
    gateway.provider.script(Reply({"error": {"message": "broken"}}, status=500))
    with pytest.raises(openai.InternalServerError, match="broken"):
        await client.chat.completions.create(model="far", messages=ASKED)


@MODELS
async def test_an_error_in_a_stream_is_raised(client: AsyncOpenAI, gateway: Gateway, model: str) -> None:
    gateway.provider.script(gateway.breaks(model))
    stream = await client.chat.completions.create(model=model, messages=ASKED, stream=True)
    with pytest.raises(openai.APIError, match="out of memory"):
        async for _ in stream:
            pass


async def test_a_stream_that_is_cut_does_not_look_like_its_end(client: AsyncOpenAI, gateway: Gateway) -> None:
    gateway.provider.script(Reply(events=chunks({"content": "he"})[:1], cut=True))
    stream = await client.chat.completions.create(model="far", messages=ASKED, stream=True)
    with pytest.raises(openai.APIConnectionError):
        async for _ in stream:
            pass


async def test_retries_and_timeouts_are_the_sdks(client: AsyncOpenAI, gateway: Gateway) -> None:
    gateway.provider.script(limited(**{"retry-after-ms": "1"}), Reply(chat("at last")))
    answer = await client.with_options(max_retries=1).chat.completions.create(model="far", messages=ASKED)
    assert answer.choices[0].message.content == "at last"
    gateway.provider.script(Reply(chat(), held=True))
    with pytest.raises(openai.APITimeoutError):
        await client.with_options(timeout=0.2).chat.completions.create(model="far", messages=ASKED)


async def test_parallel_calls_keep_their_numbers(client: AsyncOpenAI, gateway: Gateway) -> None:
    gateway.provider.script(Reply(chat(None, calls=[call("a", {}), call("b", {"x": 1}, 1)], finish="tool_calls")))
    answer = await client.chat.completions.create(model="far", messages=ASKED, tools=[TOOL])
    assert [each.id for each in answer.choices[0].message.tool_calls or []] == ["call_0", "call_1"]
