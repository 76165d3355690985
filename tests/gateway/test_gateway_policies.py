"""Routes by policy through a real Envoy: aliases, shares, fallbacks, and what clients are told of them."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.routes import outside, policy, target
from tests.fixtures.edge import ORG, OTHER_ORG, Edge, model_route

pytestmark = pytest.mark.asyncio(loop_scope="module")
ANSWERED_BY, DEGRADED = "x-aiops-target", "x-aiops-degraded"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines(edge: Edge) -> AsyncIterator[dict[str, Engine]]:
    """Three engines, and the policies that lead to them."""
    async with AsyncExitStack() as stack:
        found = {name: await stack.enter_async_context(running_engine(name)) for name in ("a", "b", "c")}
        for engine in found.values():
            engine.release.set()
        a, b, c = found.values()
        gone = Engine("gone", port=1)
        await edge.route(
            model_route(a, model="tiny"),
            policies=[
                policy("alias other/name", target(a, model="tiny", weight=1)),
                policy("tiny", target(b, model="tiny", weight=1), org=OTHER_ORG),
                policy("canary", target(a, weight=9), target(b, weight=1)),
                policy("chain", target(gone, weight=1), target(b), target(c), fallbacks="b c", failure_threshold=1000),
                policy("lost", target(gone, weight=1), failure_threshold=1000),
                policy("empty"),
                policy("everybodys", target(c, weight=1), org="org-platform", universe=True),
                policy("tiny-for-all", target(c, weight=1), org="org-platform", universe=True),
            ],
        )
        await edge.until_chat(200, "everybodys", seconds=30)
        await edge.until_chat(200, "alias", seconds=30)
        yield found


async def test_every_name_leads_to_the_target_and_is_sent_on_as_it_knows_it(
    edge: Edge, engines: dict[str, Engine]
) -> None:
    for name in ("alias", "other/name"):
        answer = await edge.chat(name, "hello", seed=9007199254740993, zeta=1, alpha={"model": "left alone"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["served_by"] == "a"
        assert answer.headers[ANSWERED_BY] == "a"
        assert DEGRADED not in answer.headers
        body = engines["a"].seen[-1].body
        assert json.loads(body)["model"] == "tiny"
        # Only the name was changed: members stay in order, large numbers exact.
        assert b'"seed":9007199254740993,"zeta":1,"alpha":{"model":"left alone"}' in body


async def test_engines_see_neither_tokens_nor_the_meshs_headers(edge: Edge, engines: dict[str, Engine]) -> None:
    await edge.chat("chain")
    headers = engines["b"].seen[-1].headers
    assert "authorization" not in headers
    assert not [name for name in headers if name.startswith("x-aiops-") and name != "x-aiops-call"]


async def test_shares_are_kept(edge: Edge, engines: dict[str, Engine]) -> None:
    answers = await asyncio.gather(*(edge.chat("canary") for _ in range(200)))
    served = Counter(answer.headers[ANSWERED_BY] for answer in answers)
    # One in ten: 20 of 200, more than four standard deviations either way.
    assert set(served) == {"a", "b"}
    assert 2 <= served["b"] <= 40
    assert {json.loads(seen.body)["model"] for seen in engines["b"].seen if b"b-model" in seen.body} == {"b-model"}


async def test_a_target_that_is_down_costs_no_request(edge: Edge, engines: dict[str, Engine]) -> None:
    answers = [await edge.chat("chain", "x" * 600_000) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert {(answer.headers[ANSWERED_BY], answer.headers[DEGRADED]) for answer in answers} == {("b", "true")}
    asked = json.loads(engines["b"].seen[-1].body)
    assert (asked["model"], len(asked["messages"][0]["content"])) == ("b-model", 600_000)


async def test_with_nobody_left_the_answer_says_so(edge: Edge, engines: dict[str, Engine]) -> None:
    for name in ("lost", "empty"):
        answer = await edge.chat(name)
        assert answer.status_code == 503
        assert answer.json()["error"]["type"] == "server_error"
    assert "no target of empty can answer now" in answer.json()["error"]["message"]


async def test_everybodys_routes_are_for_everybody_and_others_are_not(edge: Edge, engines: dict[str, Engine]) -> None:
    for org in (ORG, OTHER_ORG, "org-empty"):
        assert (await edge.chat("everybodys", headers=edge.bearer(org=org))).json()["served_by"] == "c"
    hidden = await edge.chat("alias", headers=edge.bearer(org=OTHER_ORG))
    assert hidden.status_code == 404
    assert hidden.json()["error"]["message"].endswith("deployed are: everybodys, tiny, tiny-for-all")
    # An organisation's own route stands before a model's name.
    assert (await edge.chat("tiny", headers=edge.bearer(org=OTHER_ORG))).json()["served_by"] == "b"


async def test_lists_of_models_have_every_name_once(edge: Edge, engines: dict[str, Engine]) -> None:
    async def names(org: str) -> list[Any]:
        listed = await edge.client.get("/v1/models", headers=edge.bearer(org=org))
        return [model["id"] for model in listed.json()["data"]]

    mine = ["alias", "canary", "chain", "empty", "everybodys", "lost", "other/name", "tiny", "tiny-for-all"]
    assert await names(ORG) == mine
    assert await names(OTHER_ORG) == ["everybodys", "tiny", "tiny-for-all"]
    assert await names("org-empty") == ["everybodys", "tiny-for-all"]
    one = await edge.client.get("/v1/models/other/name", headers=edge.bearer())
    assert one.json() == {"id": "other/name", "object": "model", "created": 1_700_000_000, "owned_by": ORG}
    assert (await edge.client.get("/v1/models/alias", headers=edge.bearer(org=OTHER_ORG))).status_code == 404


async def test_a_stream_comes_through_an_alias_as_it_is_written(edge: Edge, engines: dict[str, Engine]) -> None:
    body = {"model": "alias", "stream": True, "messages": [{"role": "user", "content": "one two three"}]}
    async with edge.client.stream("POST", "/v1/chat/completions", json=body, headers=edge.bearer()) as answer:
        lines = [line async for line in answer.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) == 4


async def test_what_envoy_refuses_is_told_to_the_controller_and_the_rest_serves_on(
    edge: Edge, engines: dict[str, Engine]
) -> None:
    good = [policy("alias", target(engines["a"], model="tiny", weight=1))]
    await edge.route(policies=good)
    # Nothing but Envoy reads the authorities of a provider.
    bad = policy("bad", outside(1, tls=True, ca_pem="-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----"))
    await edge.route(policies=[*good, bad])

    async def told() -> bool:
        return any(subject.endswith("Cluster") for subject, _ in edge.plane.refusals)

    await edge.until(told, seconds=30)
    assert (await edge.chat("alias")).json()["served_by"] == "a"
    assert (await edge.chat("bad")).status_code in (404, 503)
    # A mended table is taken.
    await edge.route(policies=[*good, policy("mended", target(engines["b"], weight=1))])
    await edge.until_chat(200, "mended", seconds=30)
