"""Targets that speak Anthropic's Messages, for clients of OpenAI's protocol, through the real edge."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiops.routing.v1 import routing_service_pb2 as routing

from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.provider import Provider, Reply, message, message_events, running_provider
from tests.fakes.routes import outside, policy, target
from tests.fixtures.edge import Edge

pytestmark = pytest.mark.asyncio(loop_scope="module")
MESSAGES = routing.External.messages
WEATHER = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(edge: Edge) -> AsyncIterator[Provider]:
    async with running_provider() as running, running_engine("own") as own:
        own.release.set()
        key = "credential-1"
        native: dict[str, Any] = {"protocol": MESSAGES, "credential_id": key, "credential_header": "x-api-key"}
        await edge.show(**{key: "sk-ant-secret"})
        await edge.route(
            policies=[
                policy("claude", outside(running.port, **native)),
                policy("azure", outside(running.port, credential_id=key, credential_header="api-key")),
                policy(
                    "spare", outside(running.port, **native), target(own), fallbacks="own"
                ),
                policy(
                    "reserve", target(Engine("gone", port=1), weight=1),
                    outside(running.port, weight=0, **native), fallbacks="outside",
                ),
            ]
        )  # fmt: skip
        running.script(Reply(message()))
        await edge.until_chat(200, "claude", seconds=20)
        await edge.until_chat(200, "azure", seconds=20)
        yield running


def chunks(response: httpx.Response) -> list[Any]:
    told = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert told[-1] == "[DONE]"
    return [json.loads(data) for data in told[:-1]]


async def test_a_chat_becomes_a_message_with_the_key_in_anthropics_header(edge: Edge, provider: Provider) -> None:
    provider.script(Reply(message({"type": "text", "text": "good day"})))
    answer = (await edge.chat("claude", "hello", stop="X", max_completion_tokens=5)).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "good day"}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {
        "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "prompt_tokens_details": {"cached_tokens": 3},
    }  # fmt: skip
    seen, asked = provider.seen[-1], provider.asked()
    assert seen.path == "/proxy/v1/messages"
    assert (seen.headers["x-api-key"], seen.headers["anthropic-version"]) == ("sk-ant-secret", "2023-06-01")
    assert not {"authorization", "x-request-id", "x-aiops-wanted"} & set(seen.headers)
    assert (asked["model"], asked["max_tokens"], asked["stop_sequences"]) == ("far", 5, ["X"])
    assert asked["messages"] == [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]


async def test_azures_key_goes_in_a_header_of_its_own(edge: Edge, provider: Provider) -> None:
    provider.script(Reply(message()))
    await edge.chat("azure")
    seen = provider.seen[-1]
    assert (seen.path, seen.headers["api-key"]) == ("/proxy/v1/chat/completions", "sk-ant-secret")
    assert not {"authorization", "accept-encoding"} & set(seen.headers)


async def test_a_stream_with_a_tool_becomes_chunks(edge: Edge, provider: Provider) -> None:
    provider.script(Reply(events=message_events({"type": "text", "text": "wait"}, WEATHER, stop="tool_use")))
    told = chunks(await edge.chat("claude", stream=True, stream_options={"include_usage": True}))
    deltas = [chunk["choices"][0]["delta"] for chunk in told if chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "wait"
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert (calls[0]["id"], calls[0]["function"]["name"]) == ("toolu_1", "weather")
    assert json.loads("".join(each["function"]["arguments"] for each in calls)) == {"city": "Köln"}
    assert told[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert (told[-1]["choices"], told[-1]["usage"]["total_tokens"]) == ([], 18)


async def test_an_error_of_the_target_is_openais(edge: Edge, provider: Provider) -> None:
    fault = {"type": "error", "error": {"type": "invalid_request_error", "message": "max_tokens: too large"}}
    provider.script(Reply(fault, status=400))
    refused = await edge.chat("claude")
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "max_tokens: too large"
    provider.script(Reply(events=[*message_events()[:1], fault]))
    told = [line for line in (await edge.chat("claude", stream=True)).text.splitlines() if line]
    assert json.loads(told[-1][6:])["error"]["message"] == "max_tokens: too large"


async def test_what_the_target_lacks_is_refused_by_name(edge: Edge, provider: Provider) -> None:
    refused = await edge.chat("claude", logprobs=True)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "logprobs")
    other = await edge.client.post("/v1/embeddings", json={"model": "claude", "input": "x"}, headers=edge.bearer())
    assert other.status_code == 404
    assert "/v1/chat/completions" in other.json()["error"]["message"]


async def test_an_overloaded_target_leads_to_the_next_one(edge: Edge, provider: Provider) -> None:
    provider.script(Reply({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, status=529))
    answer = await edge.chat("spare", "hello")
    assert answer.json()["choices"][0]["message"]["content"] == "own: hello"
    assert answer.headers["x-aiops-degraded"] == "true"


async def test_it_can_be_the_one_that_others_fall_back_to(edge: Edge, provider: Provider) -> None:
    provider.script(Reply(message({"type": "text", "text": "instead"})))
    answer = await edge.chat("reserve", "hello")
    assert answer.json()["choices"][0]["message"]["content"] == "instead"
    assert answer.headers["x-aiops-target"] == "outside"


async def test_anthropics_clients_reach_it_too(edge: Edge, provider: Provider) -> None:
    provider.script(Reply(message(WEATHER, stop="tool_use")))
    body = {"model": "claude", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}
    answer = (await edge.client.post("/v1/messages", json=body, headers=edge.bearer())).json()
    assert [answer["content"][0][name] for name in ("type", "id", "name", "input")] == list(WEATHER.values())
    assert answer["stop_reason"] == "tool_use"


async def test_an_answer_of_a_megabyte_passes(edge: Edge, provider: Provider) -> None:
    provider.script(Reply(message({"type": "text", "text": "ü" * 700_000})))
    answer = (await edge.chat("claude")).json()
    assert len(answer["choices"][0]["message"]["content"]) == 700_000
