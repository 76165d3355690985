"""Quotas of the running platform: exact at the edge, remembered whoever is started anew; a budget stops a run."""

import asyncio
import json
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.eventually import eventually
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.platform.outages import away
from tests.platform.served import Served, fetched, question

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)
SOON_S = 40.0


async def new_key(rest: httpx.AsyncClient) -> tuple[str, str]:
    """An API key's id and secret."""
    key = (await rest.post("/api-keys", json={"name": f"quotas-{time.time_ns()}"})).json()
    return key["apiKey"]["apiKeyId"], key["secret"]


async def until_known(served: Served, rest: httpx.AsyncClient) -> None:
    """Waits until the edge knows of the quotas that there are: one more is made, whose bucket is emptied."""
    key_id, secret = await new_key(rest)
    made = served.platform.aiops_json("quotas", "create", "--key", key_id, "--requests-per-day", "1")
    async with served.client(secret) as client:

        async def held() -> bool:
            return (await ask(client, "nobody-has-it")).status_code == 429

        await eventually(held, SOON_S)
    served.platform.aiops_json("quotas", "delete", made["quotaId"])


async def ask(client: httpx.AsyncClient, model: str) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=question(model))


async def used(rest: httpx.AsyncClient, quota_id: str) -> dict[str, str]:
    """What was used of each limit."""
    windows = (await fetched(rest, f"/quotas/{quota_id}"))["windows"]
    return {each["limitName"]: each["used"] for each in windows}


async def test_a_days_count_is_exact_and_outlives_every_service(served: Served, rest: httpx.AsyncClient) -> None:
    key_id, secret = await new_key(rest)
    made = served.platform.aiops_json("quotas", "create", "--key", key_id, "--requests-per-day", "3")
    quota_id = made["quotaId"]
    await until_known(served, rest)
    async with served.client(secret) as client:
        answers = await asyncio.gather(*(ask(client, served.model) for _ in range(10)))
        assert Counter(answer.status_code for answer in answers) == {200: 3, 429: 7}

        async def counted() -> bool:
            return await used(rest, quota_id) == {"requests_per_day": "3"}

        await eventually(counted, SOON_S)

        async def told() -> bool:
            return quota_id in (await ask(client, served.model)).text

        # From now on the ledger refuses, and not the bucket alone.
        await eventually(told, SOON_S)
        for name in ("controller", "gateway", "inference_router", "envoy"):
            async with away(served.platform, name):
                pass

            async def refused() -> bool:
                try:
                    answer = await ask(client, served.model)
                except httpx.TransportError:
                    return False
                assert answer.status_code in (429, 503), (name, answer.text)  # noqa: B023 - asked at once
                return answer.status_code == 429

            await eventually(refused, SOON_S)
    assert await used(rest, quota_id) == {"requests_per_day": "3"}
    raised = served.platform.aiops_json("quotas", "update", quota_id, "--requests-per-day", "0", "--budget", "5/day")
    assert (raised["limits"].get("requestsPerDay", 0), raised["limits"]["budget"]["amount"]) == (0, "5")
    async with served.client(secret) as client:

        async def let_in() -> bool:
            return (await ask(client, served.model)).status_code == 200

        await eventually(let_in, SOON_S)
    served.platform.aiops_json("quotas", "delete", quota_id)


async def test_a_budget_stops_a_run_and_says_what_to_do(
    served: Served, rest: httpx.AsyncClient, tmp_path: Path
) -> None:
    wish: dict[str, Any] = {"prices": {"inputToken": "0.001", "outputToken": "0.01"}}
    (tmp_path / "wish.json").write_text(json.dumps(wish))
    served.platform.aiops_json(
        "routes", "create", "priced", "--target", f"{served.model}=100", "--file", str(tmp_path / "wish.json")
    )
    key_id, secret = await new_key(rest)
    made = served.platform.aiops_json("quotas", "create", "--key", key_id, "--budget", "0.10/total")
    quota_id = made["quotaId"]
    async with served.client(secret) as client:
        let_in, refusals = list[httpx.Response](), list[httpx.Response]()

        async def answers() -> bool:
            answer = await ask(client, "priced")
            let_in.extend([answer] if answer.status_code == 200 else [])
            return bool(let_in)

        await eventually(answers, SOON_S)

        async def stopped() -> bool:
            answer = await ask(client, "priced")
            assert answer.status_code in (200, 429), answer.text
            (let_in if answer.status_code == 200 else refusals).append(answer)
            return bool(refusals)

        await eventually(stopped, SOON_S)
        assert (await ask(client, served.model)).status_code == 429
    error = refusals[0].json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert "budget of 0.10" in error["message"]
    assert quota_id in error["message"]

    async def agree() -> bool:
        """Whether the ledger has them all, and quota and sums say the same."""
        (total,) = (await fetched(rest, f"/usage?filter.apiKeyId={key_id}"))["sums"]
        spent = Decimal((await used(rest, quota_id))["budget"])
        tokens = total["inputTokens"] * Decimal("0.001") + total["outputTokens"] * Decimal("0.01")
        answered = total["requests"] - total["failed"] == len(let_in)
        return bool(answered and Decimal(total["cost"]) == spent == tokens and spent >= Decimal("0.10"))

    await eventually(agree, SOON_S)
    table = served.platform.aiops("usage", "--key", key_id).stdout
    assert "cost" in table
    served.platform.aiops_json("quotas", "delete", quota_id)
    served.platform.aiops_json("routes", "delete", "priced")
