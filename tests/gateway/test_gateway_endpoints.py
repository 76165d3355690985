"""What OpenAI has beside chats, for models whose engines may lack it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.fakes.provider import Provider, Reply, running_provider
from tests.fakes.routes import outside, policy
from tests.fixtures.edge import Edge

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(edge: Edge) -> AsyncIterator[Provider]:
    async with running_provider() as running:
        running.script(Reply({}))
        await edge.route(policies=[policy("far", outside(running.port), max_attempts=1)])
        await edge.until_chat(200, "far")
        yield running


async def ask(edge: Edge, path: str, **body: Any) -> httpx.Response:
    return await edge.client.post(path, json={"model": "far", **body}, headers=edge.bearer())


@pytest.mark.parametrize(
    ("path", "reply", "hint"),
    [
        ("/v1/embeddings", Reply({"detail": "Not Found"}, status=404), "made for embeddings"),
        ("/v1/embeddings", Reply({"error": {"code": 501, "message": "no"}}, status=501), "made for embeddings"),
        ("/v1/responses", Reply({"error": {"message": "File Not Found"}}, status=404), "with a model that chats"),
        ("/v1/completions", Reply({"detail": "Method Not Allowed"}, status=405), "does not answer /v1/completions"),
    ],
)
async def test_what_an_engine_lacks_is_told_by_name(
    edge: Edge, provider: Provider, path: str, reply: Reply, hint: str
) -> None:
    provider.script(reply)
    answer = await ask(edge, path, input="x")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "unsupported_endpoint", "model")
    assert path in error["message"]
    assert hint in error["message"]


async def test_an_engines_own_words_about_a_model_stay(edge: Edge, provider: Provider) -> None:
    provider.script(Reply({"error": {"message": "no such adapter", "code": 404}}, status=404))
    assert (await ask(edge, "/v1/embeddings", input="x")).json()["error"]["message"] == "no such adapter"
    unknown = await ask(edge, "/v1/embeddings", model="huge")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_response_is_whole_unless_asked_otherwise(edge: Edge, provider: Provider) -> None:
    provider.script(Reply({"object": "response"}))
    await ask(edge, "/v1/responses", input="x")
    assert provider.asked() == {"stream": False, "model": "far", "input": "x"}
    provider.script(Reply(events=[{"type": "response.created"}, {"type": "response.completed"}]))
    answer = await ask(edge, "/v1/responses", input="x", stream=True)
    assert answer.headers["content-type"] == "text/event-stream"
    assert json.loads(answer.text.splitlines()[-2].removeprefix("data: ")) == {"type": "response.completed"}
    assert provider.asked()["stream"] is True


async def test_a_model_that_does_not_hear_is_told_by_name(edge: Edge, provider: Provider) -> None:
    form = {"data": {"model": "far"}, "files": {"file": b"RIFF"}}
    answer = await edge.client.post("/v1/audio/transcriptions", headers=edge.bearer(), **form)  # type: ignore[arg-type]
    assert answer.status_code == 404
    assert "no such model that transcribes" in answer.json()["error"]["message"]
