"""Clients of Anthropic's Messages at the public port: inside it is a chat, for models of the platform and others."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.provider import Provider, Reply, call, chat, chunks, running_provider
from tests.fakes.routes import outside, policy
from tests.fixtures.edge import Edge, model_route

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(edge: Edge, provider: Provider) -> AsyncIterator[Engine]:
    async with running_engine("a") as running:
        running.release.set()
        await edge.route(model_route(running), policies=[policy("far", outside(provider.port))])
        await edge.until_chat(200)
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[Provider]:
    async with running_provider() as running:
        yield running


async def ask(edge: Edge, text: Any = "hi", *, headers: Any = None, path: str = "", **more: Any) -> httpx.Response:
    body = {"model": "tiny", "max_tokens": 9, "messages": [{"role": "user", "content": text}], **more}
    return await edge.client.post(f"/v1/messages{path}", json=body, headers=headers or edge.bearer())


def events(response: httpx.Response) -> list[Any]:
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


async def test_a_model_of_the_platform_answers_with_a_message(edge: Edge, engine: Engine) -> None:
    response = await ask(edge, "hello", path="?beta=true")
    assert response.status_code == 200
    message = response.json()
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "tiny")
    assert message["content"] == [{"type": "text", "text": "a: hello"}]
    assert (message["stop_reason"], message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (
        "end_turn", 3, 2,
    )  # fmt: skip
    assert response.headers["request-id"] == response.headers["x-request-id"]
    seen = engine.seen[-1]
    assert (seen.path, json.loads(seen.body)["max_tokens"]) == ("/v1/chat/completions", 9)


async def test_a_stream_becomes_anthropics_events(edge: Edge, engine: Engine) -> None:
    response = await ask(edge, "one two", stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    told = events(response)
    assert [each["type"] for each in told] == [
        *("message_start", "content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert "".join(each["delta"]["text"] for each in told if each["type"] == "content_block_delta") == "onetwo"
    assert told[-2]["usage"]["input_tokens"], told[-2]["usage"]["output_tokens"] == (3, 2)


async def test_a_key_comes_in_the_header_that_anthropics_clients_send(edge: Edge, engine: Engine) -> None:
    token = edge.issuer.token(typ="api_key", jti="key-1")
    assert (await ask(edge, headers={"x-api-key": token})).status_code == 200
    assert not {"x-api-key", "authorization"} & set(engine.seen[-1].headers)
    assert (await edge.chat(headers={"x-api-key": token})).status_code == 200
    nobody = await ask(edge, headers={"x-api-key": "nonsense"})
    assert nobody.status_code == 401
    assert nobody.json()["error"]["type"] == "authentication_error"
    assert (await edge.client.get("/nodes", headers={"x-api-key": token})).status_code == 401


async def test_two_tokens_are_not_two_callers(edge: Edge, engine: Engine) -> None:
    good, revoked = edge.issuer.token(jti="good"), edge.issuer.token(jti="gone")
    await edge.revoke("gone")

    async def refused() -> bool:
        return (await ask(edge, headers={"x-api-key": revoked})).status_code == 401

    await edge.until(refused)
    both = {"authorization": f"Bearer {revoked}", "x-api-key": revoked}
    assert (await ask(edge, headers=both)).status_code == 401
    assert (await ask(edge, headers={**both, "authorization": f"Bearer {good}"})).status_code == 200
    await edge.revoke()


async def test_refusals_are_anthropics_errors(edge: Edge, engine: Engine) -> None:
    for response, status, kind in (
        (await ask(edge, model="huge"), 404, "not_found_error"),
        (await ask(edge, "refuse"), 400, "invalid_request_error"),
        (await ask(edge, mcp_servers=[1]), 400, "invalid_request_error"),
        (await ask(edge, path="/count_tokens"), 404, "not_found_error"),
        (await edge.client.post("/v1/messages", content=b"{", headers=edge.bearer()), 400, "invalid_request_error"),
        (await edge.client.get("/v1/messages", headers=edge.bearer()), 404, "not_found_error"),
    ):
        assert (response.status_code, response.json()["type"]) == (status, "error")
        assert response.json()["error"]["type"] == kind
    assert "mcp_servers" in (await ask(edge, mcp_servers=[1])).json()["error"]["message"]


async def test_tools_pass_both_ways(edge: Edge, engine: Engine, provider: Provider) -> None:
    calls = [call("weather", {"city": "Köln 😀"}), call("time", {}, 1)]
    provider.script(Reply(chat(None, calls=calls, finish="tool_calls", cached=4)))
    tool = {"name": "weather", "input_schema": {"type": "object"}}
    message = (await ask(edge, model="far", tools=[tool], tool_choice={"type": "any"})).json()
    assert [(block["name"], block["input"]) for block in message["content"]] == [
        ("weather", {"city": "Köln 😀"}), ("time", {}),
    ]  # fmt: skip
    assert (message["stop_reason"], message["usage"]["input_tokens"]) == ("tool_use", 7)
    assert message["usage"]["cache_read_input_tokens"] == 4
    asked = provider.asked()
    assert asked["tools"][0]["function"] == {"name": "weather", "parameters": {"type": "object"}}
    assert (asked["tool_choice"], asked["model"]) == ("required", "far")


async def test_an_error_in_the_midst_of_a_stream_is_told(edge: Edge, engine: Engine, provider: Provider) -> None:
    fault = {"error": {"message": "out of memory", "type": "server_error"}}
    provider.script(Reply(events=[*chunks({"content": "he"})[:1], fault]))
    told = events(await ask(edge, model="far", stream=True))
    assert told[-1] == {"type": "error", "error": {"type": "api_error", "message": "out of memory"}}


async def test_long_requests_and_answers_pass_whole(edge: Edge, engine: Engine, provider: Provider) -> None:
    provider.script(Reply(chat("ü" * 1_000_000)))
    message = (await ask(edge, "ä" * 1_000_000, model="far")).json()
    assert len(message["content"][0]["text"]) == 1_000_000
    assert len(provider.asked()["messages"][0]["content"]) == 1_000_000
