"""A GGUF file from the command line to answers by a real llama-server."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.eventually import eventually
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.platform.served import Served, deploy, fetched, question, running, stop

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)
NAME = "gguf-demo"
SOON_S = 60.0


async def test_a_gguf_file_is_imported_deployed_and_chats(
    served: Served, rest: httpx.AsyncClient, gguf_model: Path, llamacpp_executable: Path
) -> None:
    model = served.platform.aiops_json("models", "import", str(gguf_model), "--name", NAME)["model"]
    assert (model["framework"], model["modelFormat"], model["task"]) == ("llamacpp", "gguf", "llm")
    said = (await fetched(rest, f"/models/{NAME}"))["metadata"]
    assert (said["architecture"], said["quantization"], said["contextLength"]) == ("llama", "BF16", 2048)
    assert (said["parameters"], said["chatTemplate"]) == (3_426_560, True)

    made = await deploy(rest, modelId=NAME, contextTokens=512, maxConcurrency=2)
    deployment = await running(rest, made["deploymentId"])
    assert deployment["engine"] == "llamacpp"

    async def answers() -> bool:
        return (await rest.post("/v1/chat/completions", json=question(NAME))).status_code == 200

    await eventually(answers, SOON_S)
    asked = {**question(NAME, "What is a GPU node?", tokens=60), "temperature": 0}
    answer = (await rest.post("/v1/chat/completions", json=asked)).json()
    assert "graphics cards" in answer["choices"][0]["message"]["content"]
    assert answer["model"] == NAME
    pieces = await streamed(rest, {**asked, "stream": True, "stream_options": {"include_usage": True}})
    said_in_pieces = (choice["delta"].get("content") or "" for piece in pieces for choice in piece["choices"])
    assert "".join(said_in_pieces) == answer["choices"][0]["message"]["content"]
    assert [piece["usage"]["completion_tokens"] for piece in pieces if piece.get("usage")] == [
        answer["usage"]["completion_tokens"]
    ]
    too_long = await rest.post("/v1/chat/completions", json=question(NAME, "word " * 1000))
    assert too_long.status_code == 400, too_long.text
    assert "512 tokens" in too_long.json()["error"]["message"]
    ignored = await rest.post("/v1/chat/completions", json={**asked, "web_search_options": {}})
    assert (ignored.status_code, ignored.json()["error"]["param"]) == (400, "web_search_options")

    async def tells_its_load() -> bool:
        metrics = await fetched(rest, f"/deployments/{deployment['deploymentId']}/metrics")
        load: dict[str, float] = metrics.get("engineLoad") or {}
        said: int = answer["usage"]["completion_tokens"]
        return load.get("generatedTokens", 0) > said

    await eventually(tells_its_load, SOON_S)
    await eventually(partial(is_reconciled, rest, deployment["deploymentId"], answer["usage"]), SOON_S)
    await stop(rest, deployment["deploymentId"])
    assert (await rest.delete(f"/models/{NAME}")).status_code == 200


async def is_reconciled(rest: httpx.AsyncClient, deployment_id: str, usage: dict[str, int]) -> bool:
    """Whether the engine's own counters reached the ledger's sums, which have two such answers at least.

    The engine counts the platform's own look at whether it answers too.
    """
    days = (await fetched(rest, f"/usage/reconciliation?deploymentId={deployment_id}"))["days"]
    ledger, engine = (
        {kind: sum(day.get(f"{who}{kind}Tokens", 0) for day in days) for kind in ("Input", "Output")}
        for who in ("ledger", "engine")
    )
    assert all("engineRequests" not in day for day in days), days
    enough = ledger["Output"] > 2 * usage["completion_tokens"] and ledger["Input"] > 2 * usage["prompt_tokens"]
    return enough and all(engine[kind] >= ledger[kind] for kind in ledger)


async def streamed(rest: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The pieces of a stream, which ends as it should."""
    async with rest.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        events = [line.removeprefix("data: ") async for line in answer.aiter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]
