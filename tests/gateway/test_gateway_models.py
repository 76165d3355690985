"""Model routes through the real edge: by name, by instance, per organisation; what is refused, and in whose words."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiops.routing.v1 import routing_service_pb2 as routing

from tests.fakes.engine_http import Engine, running_engine
from tests.fixtures.edge import ORG, OTHER_ORG, Edge, model_route

pytestmark = pytest.mark.asyncio(loop_scope="module")
JSON = {"content-type": "application/json"}


def refused(path: str, *harmless: str) -> routing.RefusedField:
    return routing.RefusedField(path=path, harmless_values=harmless)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines(edge: Edge) -> AsyncIterator[dict[str, Engine]]:
    """Models: `tiny` on two engines, `picky` that ignores fields, `secret` of another organisation."""
    async with running_engine("a") as a, running_engine("b") as b, running_engine("p") as p, running_engine("s") as s:
        for engine in (a, b, p, s):
            engine.release.set()
        ignores = [refused("n", "1", "null"), refused("logprobs", "false"), refused("tools", "[]")]
        ignores += [refused("stream_options.include_usage", "true"), refused("response_format", '{"type":"text"}')]
        await edge.route(
            model_route(a, b),
            model_route(p, model="picky", refused=ignores),
            model_route(s, model="secret", org=OTHER_ORG),
        )
        await edge.until_chat(200)
        await edge.until_chat(200, "picky")
        yield {"a": a, "b": b, "p": p, "s": s}


def error(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


async def test_a_chat_goes_to_the_model_that_its_body_names(edge: Edge, engines: dict[str, Engine]) -> None:
    response = await edge.chat("tiny", "hello")
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] in {"a: hello", "b: hello"}
    assert (await edge.chat("picky")).json()["served_by"] == "p"


async def test_requests_spread_over_the_replicas(edge: Edge, engines: dict[str, Engine]) -> None:
    served = [(await edge.chat()).json()["served_by"] for _ in range(60)]
    assert 15 <= served.count("a") <= 45


async def test_engines_never_see_a_users_token_or_the_meshs_headers(edge: Edge, engines: dict[str, Engine]) -> None:
    await edge.chat("picky")
    headers = engines["p"].seen[-1].headers
    assert "authorization" not in headers
    assert not [name for name in headers if name.startswith("x-aiops-") and name != "x-aiops-call"]


async def test_an_unknown_model_is_not_found_and_the_answer_says_which_exist(
    edge: Edge, engines: dict[str, Engine]
) -> None:
    response = await edge.chat("huge")
    assert response.status_code == 404
    assert error(response)["code"] == "model_not_found"
    assert error(response)["param"] == "model"
    assert error(response)["message"].endswith("deployed are: picky, tiny")


async def test_another_organisations_model_does_not_exist(edge: Edge, engines: dict[str, Engine]) -> None:
    response = await edge.chat("secret")
    assert response.status_code == 404
    assert "secret" not in error(response)["message"]
    assert (await edge.chat("secret", headers=edge.bearer(org=OTHER_ORG))).json()["served_by"] == "s"
    assert (await edge.chat("tiny", headers=edge.bearer(org=OTHER_ORG))).status_code == 404
    assert "none is deployed" in error(await edge.chat("tiny", headers=edge.bearer(org="org-empty")))["message"]


async def test_a_client_cannot_choose_its_organisation(edge: Edge, engines: dict[str, Engine]) -> None:
    forged = {"x-aiops-org": OTHER_ORG, "x-aiops-route": f"{OTHER_ORG}/secret", "x-aiops-model": "secret"}
    response = await edge.chat("secret", headers=edge.bearer() | forged)
    assert response.status_code == 404
    bad_json = await edge.client.post("/v1/chat/completions", content=b"{", headers=edge.bearer() | forged | JSON)
    assert bad_json.status_code == 400
    instance = await edge.client.post("/models/secret/s/v1/inference", json={}, headers=edge.bearer() | forged)
    assert instance.status_code == 404


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"messages":[]}',
        b"{",
        b"[1]",
        b'"tiny"',
        b'{"model":',
        b"\xff",
        b'{"model":null}',
        b'{"model":""}',
        b'{"model":{"a":1}}',
        b'{"model":["tiny"]}',
        b"[" * 50_000,
    ],
)
async def test_a_body_without_a_model_is_refused(edge: Edge, engines: dict[str, Engine], content: bytes) -> None:
    response = await edge.client.post("/v1/chat/completions", content=content, headers=edge.bearer() | JSON)
    assert response.status_code == 400
    assert error(response)["type"] == "invalid_request_error"
    assert "model" in error(response)["message"]


@pytest.mark.parametrize(
    "name", ["tiny\r\nx-aiops-org: org-two", "../tiny", "org-two/secret", "x" * 70_000, "tïny", "!missing", 5]
)
async def test_a_strange_model_name_is_only_a_name(edge: Edge, engines: dict[str, Engine], name: Any) -> None:
    response = await edge.chat(name)
    assert response.status_code in {400, 404}
    assert error(response)["type"] == "invalid_request_error"


async def test_the_content_type_may_carry_a_charset_and_a_long_body_is_read_whole(
    edge: Edge, engines: dict[str, Engine]
) -> None:
    body = {"messages": [{"role": "user", "content": "x" * 600_000}], "model": "picky"}
    headers = edge.bearer() | {"content-type": "Application/JSON; charset=UTF-8"}
    response = await edge.client.post("/v1/chat/completions", content=json.dumps(body), headers=headers)
    assert response.status_code == 200
    assert len(engines["p"].seen[-1].body) > 600_000
    other = await edge.client.post(
        "/v1/chat/completions", content=b"model=tiny", headers=edge.bearer() | {"content-type": "text/plain"}
    )
    assert other.status_code == 400


async def test_an_oversized_chat_is_refused_in_openais_words(edge: Edge, engines: dict[str, Engine]) -> None:
    response = await edge.chat("tiny", "x" * (17 * 1024 * 1024))
    assert response.status_code == 413
    assert error(response)["code"] == "resource_exhausted"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("tools", [{"type": "function"}]),
        ("response_format", {"type": "json_object"}),
        ("stream_options.include_usage", False),
    ],
)
async def test_a_field_that_the_engine_would_ignore_is_refused_by_name(
    edge: Edge, engines: dict[str, Engine], field: str, value: Any
) -> None:
    outer, _, inner = field.partition(".")
    response = await edge.chat("picky", **{outer: {inner: value} if inner else value})
    assert (response.status_code, error(response)["param"], error(response)["code"]) == (
        400,
        field,
        "unsupported_parameter",
    )
    assert "picky" in error(response)["message"]
    # A model whose engine honours it takes the same request.
    assert (await edge.chat("tiny", **{outer: {inner: value} if inner else value})).status_code == 200


async def test_values_that_change_nothing_are_let_through(edge: Edge, engines: dict[str, Engine]) -> None:
    harmless: dict[str, Any] = {
        "n": 1,
        "logprobs": False,
        "tools": [],
        "response_format": {"type": "text"},
        "temperature": 0.5,
    }
    assert (await edge.chat("picky", **harmless, stream_options={"include_usage": True})).status_code == 200
    # A field of an object is not there where the object is none.
    for other in ("include_usage", None, ["include_usage"]):
        assert (await edge.chat("picky", stream_options=other)).status_code == 200


async def test_no_spelling_gets_a_refused_field_past_the_edge(edge: Edge, engines: dict[str, Engine]) -> None:
    tricks = [
        rb'{"model":"picky","\u006e":2}',
        rb'{ "model" : "picky" , "messages":[{"content":"a\"b{[\\"}],"n" :  2 }',
        rb'{"n":1,"model":"picky","n":2}',
    ]
    for content in tricks:
        response = await edge.client.post("/v1/chat/completions", content=content, headers=edge.bearer() | JSON)
        assert (response.status_code, error(response)["param"]) == (400, "n"), content


async def test_models_are_listed_for_the_callers_organisation(edge: Edge, engines: dict[str, Engine]) -> None:
    mine = (await edge.client.get("/v1/models", headers=edge.bearer())).json()
    assert mine["object"] == "list"
    assert [model["id"] for model in mine["data"]] == ["picky", "tiny"]
    assert mine["data"][1] == {"id": "tiny", "object": "model", "created": 1_700_000_000, "owned_by": ORG}
    other = (await edge.client.get("/v1/models", headers=edge.bearer(org=OTHER_ORG))).json()
    assert [model["id"] for model in other["data"]] == ["secret"]
    nobody = (await edge.client.get("/v1/models", headers=edge.bearer(org="org-empty"))).json()
    assert nobody == {"object": "list", "data": []}


async def test_one_model_is_described_and_only_to_its_organisation(edge: Edge, engines: dict[str, Engine]) -> None:
    tiny = await edge.client.get("/v1/models/tiny", headers=edge.bearer())
    assert tiny.json() == {"id": "tiny", "object": "model", "created": 1_700_000_000, "owned_by": ORG}
    for path, org in (("/v1/models/secret", ORG), ("/v1/models/tiny", "org-empty"), ("/v1/modelsandmore", ORG)):
        response = await edge.client.get(path, headers=edge.bearer(org=org))
        assert (response.status_code, error(response)["code"]) == (404, "model_not_found")


async def test_an_instance_is_reached_by_its_own_path(edge: Edge, engines: dict[str, Engine]) -> None:
    for name in ("a", "b"):
        response = await edge.client.post(
            f"/models/tiny/{name}/v1/inference", json={"model": "tiny"}, headers=edge.bearer()
        )
        assert (response.json()["served_by"], response.json()["path"]) == (name, "/v1/chat/completions")
        rest = await edge.client.get(f"/models/tiny/{name}/health/live?x=1", headers=edge.bearer())
        assert (rest.json()["served_by"], rest.json()["path"]) == (name, "/health/live?x=1")


async def test_an_instance_refuses_what_its_engine_would_ignore_too(edge: Edge, engines: dict[str, Engine]) -> None:
    for path in ("v1/inference", "v1/chat/completions"):
        response = await edge.client.post(
            f"/models/picky/p/{path}", json={"model": "picky", "n": 3}, headers=edge.bearer()
        )
        assert (response.status_code, error(response)["param"]) == (400, "n")


@pytest.mark.parametrize(
    "path",
    ["load_model", "load_model/", "load_model?x=1", "v1/../load_model", "%6coad_model", "/load_model", "load_model%2f"],
)
async def test_what_changes_an_engine_is_not_for_clients(edge: Edge, engines: dict[str, Engine], path: str) -> None:
    response = await edge.client.post(f"/models/tiny/a/{path}", json={"model": "other"}, headers=edge.bearer())
    assert response.status_code in (307, 404)
    assert "served_by" not in response.text
    if response.status_code == 307:
        again = await edge.client.post(response.headers["location"], json={"model": "other"}, headers=edge.bearer())
        assert again.status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/models/tiny/ghost/v1/inference", "/models/ghost/a/v1/inference", "/models/secret/s/v1/inference", "/v1/unknown"],
)
async def test_an_unknown_instance_or_path_is_not_found(edge: Edge, engines: dict[str, Engine], path: str) -> None:
    response = await edge.client.post(path, json={"model": "tiny"}, headers=edge.bearer())
    assert response.status_code == 404
    assert error(response)["type"] == "invalid_request_error"


async def test_rest_paths_under_models_still_reach_the_registry(edge: Edge, engines: dict[str, Engine]) -> None:
    response = await edge.client.get("/models/tiny", headers=edge.bearer())
    assert (response.status_code, response.json()["details"][0]["reason"]) == (404, "NOT_FOUND")


async def test_a_stream_arrives_word_by_word(edge: Edge, engines: dict[str, Engine]) -> None:
    engines["p"].release.clear()
    body = {"model": "picky", "messages": [{"content": "one two three"}], "stream": True}
    async with edge.client.stream("POST", "/v1/chat/completions", json=body, headers=edge.bearer()) as response:
        assert response.headers["content-type"] == "text/event-stream"
        lines = response.aiter_lines()
        first = await anext(lines)
        assert '"content": "one"' in first
        # The engine holds the last word back: what came before was not waited for.
        engines["p"].release.set()
        rest = [line async for line in lines if line]
    assert rest[-1] == "data: [DONE]"


async def test_an_engines_own_refusal_comes_back_as_it_is(edge: Edge, engines: dict[str, Engine]) -> None:
    response = await edge.chat("tiny", "refuse")
    assert (response.status_code, error(response)["message"]) == (400, "the prompt is too long")


async def test_an_engine_that_closes_connections_it_keeps_loses_no_request(
    edge: Edge, engines: dict[str, Engine]
) -> None:
    async with running_engine("c") as closing:
        closing.closing = True
        route = model_route(closing, model="closing")
        route.targets[0].single_use_connections = True
        everything = [model_route(engines["a"], engines["b"]), route]
        await edge.route(*everything)
        await edge.until_chat(200, "closing")
        assert {(await edge.chat("closing")).status_code for _ in range(20)} == {200}
