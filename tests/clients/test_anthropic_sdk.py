"""Anthropic's Python SDK as it comes, with the gateway as its base URL and models of either protocol."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic

from tests.clients.conftest import Gateway
from tests.fakes.provider import Reply, call, chat, chunks

pytestmark = pytest.mark.asyncio(loop_scope="package")
ASKED: Any = [{"role": "user", "content": "Hello!"}]
TOOL: Any = {"name": "weather", "description": "tells it", "input_schema": {"type": "object"}}
MODELS = pytest.mark.parametrize("model", ["far", "claude"])


@pytest_asyncio.fixture(loop_scope="package")
async def client(gateway: Gateway) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=gateway.edge.url, api_key=gateway.key, max_retries=0) as client:
        yield client


async def test_a_message_of_a_model_of_the_platform(client: AsyncAnthropic) -> None:
    message = await client.messages.create(
        model="tiny", max_tokens=9, messages=ASKED, system="Be kind.", stop_sequences=["X"]
    )
    assert message.content[0].type == "text"
    assert message.content[0].text == "tiny: Hello!"
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 2)
    assert message._request_id


async def test_a_stream_is_put_together_by_the_sdk(client: AsyncAnthropic) -> None:
    async with client.messages.stream(model="tiny", max_tokens=9, messages=ASKED) as stream:
        assert "".join([text async for text in stream.text_stream]) == "Hello!"
        message = await stream.get_final_message()
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("end_turn", 2, 1)


@MODELS
async def test_tools(client: AsyncAnthropic, gateway: Gateway, model: str) -> None:
    gateway.provider.script(gateway.calls(model))
    message = await client.messages.create(
        model=model, max_tokens=9, messages=ASKED, tools=[TOOL], tool_choice={"type": "any"}
    )
    (used,) = (block for block in message.content if block.type == "tool_use")
    assert (used.name, used.input, message.stop_reason) == ("weather", {"city": "Köln"}, "tool_use")
    gateway.provider.script(gateway.answers(model, "sunny"))
    result: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": used.id, "content": "21 °C"}]}
    spoken: Any = {"role": "assistant", "content": message.content}
    after = await client.messages.create(model=model, max_tokens=9, messages=[*ASKED, spoken, result], tools=[TOOL])
    assert after.content[0].type == "text"
    assert after.content[0].text == "sunny"


@MODELS
async def test_a_stream_with_tools(client: AsyncAnthropic, gateway: Gateway, model: str) -> None:
    gateway.provider.script(gateway.calls(model, streamed=True))
    async with client.messages.stream(model=model, max_tokens=9, messages=ASKED, tools=[TOOL]) as stream:
        message = await stream.get_final_message()
    assert [block.input for block in message.content if block.type == "tool_use"] == [{"city": "Köln"}]
    assert message.stop_reason == "tool_use"


async def test_parallel_tools_in_a_stream(client: AsyncAnthropic, gateway: Gateway) -> None:
    parts = [
        {"content": "Both."},
        {"tool_calls": [{"index": 0, **call("a", {"x": [1, "é"]}, 1)}]},
        {"tool_calls": [{"index": 1, **call("b", {}, 2)}]},
    ]
    gateway.provider.script(Reply(events=chunks(*parts, finish="tool_calls")))
    async with client.messages.stream(model="far", max_tokens=9, messages=ASKED, tools=[TOOL]) as stream:
        message = await stream.get_final_message()
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
    assert [block.input for block in message.content if block.type == "tool_use"] == [{"x": [1, "é"]}, {}]


async def test_structured_output(client: AsyncAnthropic, gateway: Gateway) -> None:
    gateway.provider.script(Reply(chat('{"name": "Köln"}')))
    schema: Any = {"type": "object", "properties": {"name": {"type": "string"}}}
    message = await client.messages.create(
        model="far", max_tokens=9, messages=ASKED, output_config={"format": {"type": "json_schema", "schema": schema}}
    )
    assert message.content[0].type == "text"
    assert message.content[0].text == '{"name": "Köln"}'
    assert gateway.provider.asked()["response_format"]["json_schema"]["schema"] == schema


async def test_errors_are_the_sdks_own(client: AsyncAnthropic, gateway: Gateway) -> None:
    with pytest.raises(anthropic.NotFoundError, match="deployed are: claude, far, tiny"):
        await client.messages.create(model="huge", max_tokens=9, messages=ASKED)
    with pytest.raises(anthropic.AuthenticationError):
        await client.with_options(api_key="nonsense").messages.create(model="tiny", max_tokens=9, messages=ASKED)
    with pytest.raises(anthropic.BadRequestError, match="thinking"):
        await client.messages.create(
            model="tiny", max_tokens=2048, messages=ASKED, thinking={"type": "enabled", "budget_tokens": 1024}
        )
    limit = Reply({"error": {"message": "slow down"}}, status=429, headers={"retry-after": "7"})
    gateway.provider.script(limit)
    with pytest.raises(anthropic.RateLimitError, match="slow down") as limited:
        await client.messages.create(model="far", max_tokens=9, messages=ASKED)
    assert limited.value.response.headers["retry-after"] == "7"


@MODELS
async def test_an_error_in_a_stream_is_raised(client: AsyncAnthropic, gateway: Gateway, model: str) -> None:
    gateway.provider.script(gateway.breaks(model))
    with pytest.raises(anthropic.APIStatusError, match="out of memory"):
        async with client.messages.stream(model=model, max_tokens=9, messages=ASKED) as stream:
            await stream.get_final_message()


async def test_retries_and_timeouts_are_the_sdks(client: AsyncAnthropic, gateway: Gateway) -> None:
    limit = Reply({"error": {"message": "slow down"}}, status=429, headers={"retry-after-ms": "1"})
    gateway.provider.script(limit, Reply(chat("at last")))
    message = await client.with_options(max_retries=1).messages.create(model="far", max_tokens=9, messages=ASKED)
    assert message.content[0].type == "text"
    assert message.content[0].text == "at last"
    gateway.provider.script(Reply(chat(), held=True))
    with pytest.raises(anthropic.APITimeoutError):
        await client.with_options(timeout=0.2).messages.create(model="far", max_tokens=9, messages=ASKED)


async def test_models_are_listed(client: AsyncAnthropic) -> None:
    assert {model.id async for model in client.models.list()} == {"tiny", "far", "claude"}
