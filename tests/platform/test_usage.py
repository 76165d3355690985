"""Every request of the running platform is in the ledger once, whoever was away when it was answered."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.fakes.eventually import eventually
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.platform.outages import away, frozen, pid_of
from tests.platform.served import Served, fetched, question

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)
LEDGER_S = 40.0


async def chat(rest: httpx.AsyncClient, model: str, **more: object) -> str:
    """A short chat's id."""
    answer = await rest.post("/v1/chat/completions", json=question(model) | more)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-request-id"]


async def entries(rest: httpx.AsyncClient, wanted: list[str]) -> dict[str, dict[str, Any]]:
    """What the ledger has of requests, once it has them all. Each is there once."""
    found: list[dict[str, Any]] = []

    async def all_there() -> bool:
        found[:] = (await fetched(rest, "/usage/records?pageSize=1000"))["records"]
        return set(wanted) <= {each["requestId"] for each in found}

    await eventually(all_there, LEDGER_S)
    mine = [each for each in found if each["requestId"] in wanted]
    assert len(mine) == len(wanted)
    return {each["requestId"]: each for each in mine}


async def test_a_chat_is_in_the_ledger_with_the_engines_own_counts(served: Served, rest: httpx.AsyncClient) -> None:
    body = question(served.model)
    answer = await rest.post("/v1/chat/completions", json=body)
    counted = answer.json()["usage"]
    streamed = await chat(rest, served.model, stream=True)
    found = await entries(rest, [answer.headers["x-request-id"], streamed])
    entry, stream = found[answer.headers["x-request-id"]], found[streamed]
    assert (entry["inputTokens"], entry["outputTokens"]) == (counted["prompt_tokens"], counted["completion_tokens"])
    assert (stream["inputTokens"], stream["outputTokens"]) == (counted["prompt_tokens"], counted["completion_tokens"])
    assert (entry["streamed"], stream["streamed"]) == (False, True)
    assert 0 < stream["firstByteMs"] <= stream["durationMs"]
    assert entry["apiKeyId"] == stream["apiKeyId"] != ""
    assert {entry["deploymentId"], stream["deploymentId"]} <= {
        each["deploymentId"] for each in served.replicas.values()
    }


async def test_sums_by_key_model_and_day_add_up(served: Served, rest: httpx.AsyncClient) -> None:
    key = (await rest.post("/api-keys", json={"name": "sums"})).json()
    async with served.client(key["secret"]) as other:
        await entries(rest, [await chat(other, served.model) for _ in range(3)])
    mine = f"filter.apiKeyId={key['apiKey']['apiKeyId']}"
    sums = (await fetched(rest, f"/usage?groupBy=day&groupBy=model&groupBy=key&{mine}"))["sums"]
    records = (await fetched(rest, f"/usage/records?{mine}"))["records"]
    assert {(each["model"], each["apiKeyId"]) for each in sums} == {(served.model, key["apiKey"]["apiKeyId"])}
    assert sum(each["requests"] for each in sums) == len(records) == 3
    assert sum(each["outputTokens"] for each in sums) == sum(each["outputTokens"] for each in records)


async def test_a_deployment_says_how_many_requests_it_answered(served: Served, rest: httpx.AsyncClient) -> None:
    (entry,) = (await entries(rest, [await chat(rest, served.model)])).values()
    deployment_id = entry["deploymentId"]

    async def agree() -> bool:
        (total,) = (await fetched(rest, f"/usage?filter.deploymentId={deployment_id}"))["sums"]
        shown = await fetched(rest, f"/deployments/{deployment_id}")
        metrics = await fetched(rest, f"/deployments/{deployment_id}/metrics")
        assert shown["lastRequestAt"]
        counts = {shown["requestCount"], metrics["requestCount"], total["requests"]}
        return len(counts) == 1 and shown["avgLatencyMs"] == pytest.approx(total["avgDurationMs"])

    await eventually(agree, LEDGER_S)


async def test_the_command_line_sums_up_and_lists(served: Served, rest: httpx.AsyncClient) -> None:
    asked = await chat(rest, served.model)
    await entries(rest, [asked])
    sums = served.platform.aiops_json("usage", "--by", "model", "--since", "1h")
    assert served.model in {each["model"] for each in sums}
    listed = served.platform.aiops_json("requests", "--model", served.model, "--limit", "0")
    assert asked in {each["requestId"] for each in listed}
    table = served.platform.aiops("usage", "--by", "day", "--by", "key")
    assert "tokens out" in table.stdout
    (day, *_) = served.platform.aiops_json("usage", "reconcile", "--since", "1h")
    assert day["ledgerRequests"] > 0
    assert "no counter" in served.platform.aiops("usage", "reconcile").stdout
    wrong = served.platform.aiops("usage", "--since", "yesterday")
    assert wrong.returncode == 2
    assert "neither a span" in wrong.stderr


async def test_nothing_is_lost_or_doubled_while_parts_are_away(served: Served, rest: httpx.AsyncClient) -> None:
    asked = []
    for part in ("gateway", "controller", "postgres"):
        async with away(served.platform, part):
            asked += [await chat(rest, served.model) for _ in range(3)]
    with frozen(pid_of(served.platform, "broker")):
        asked += await asyncio.gather(*(chat(rest, served.model) for _ in range(4)))
    asked.append(await chat(rest, served.model))

    async def answers() -> bool:
        return (await rest.get("/usage")).status_code == 200

    await eventually(answers, LEDGER_S)
    await entries(rest, asked)
