"""A real engine that nobody asks for ends, and the next chat brings it back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from stack.demo.platform import demo_model
from tests.fakes.eventually import eventually
from tests.platform.served import Served, fetched

MODEL = "platform-sleepy"
ASKED = {"minReplicas": 0, "maxReplicas": 2, "targetConcurrency": 8, "idleSeconds": 2, "holdSeconds": 300}
WAKING_S, SLEEPING_S = 240, 60


@pytest.fixture
async def sleepy(served: Served, rest: httpx.AsyncClient) -> AsyncIterator[str]:
    """A replica set that begins asleep; it is deleted in the end, and so is its model."""
    served.platform.aiops_json("models", "import", str(demo_model()), "--name", MODEL)
    made = await rest.post("/replica-sets", json={"modelId": MODEL, "replicas": 0, "autoscaling": ASKED})
    assert made.status_code == 200, made.text
    set_id = made.json()["replicaSetId"]
    yield set_id
    await rest.delete(f"/replica-sets/{set_id}")
    await eventually(nobody_runs(rest), SLEEPING_S)
    assert (await rest.delete(f"/models/{MODEL}")).status_code == 200


def nobody_runs(rest: httpx.AsyncClient) -> Callable[[], Awaitable[bool]]:
    """Whether no instance of the model is left."""

    async def asleep() -> bool:
        page = await fetched(rest, f"/deployments?modelId={MODEL}")
        return all(each["status"] == "stopped" for each in page["deployments"])

    return asleep


@pytest.mark.timeout(420)
async def test_a_chat_wakes_a_model_which_then_falls_asleep_again(
    served: Served, rest: httpx.AsyncClient, sleepy: str
) -> None:
    async def listed() -> bool:
        return MODEL in [model["id"] for model in (await fetched(rest, "/v1/models"))["data"]]

    await eventually(listed, 20)
    assert (await fetched(rest, f"/deployments?modelId={MODEL}"))["deployments"] == []
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    answer = await rest.post("/v1/chat/completions", json=body, timeout=WAKING_S)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"]
    woken = (await fetched(rest, f"/replica-sets/{sleepy}"))["autoscalingStatus"]
    assert woken["scaledTo"] == 1
    assert "wait for it to wake" in woken["scaledWhy"]
    await eventually(nobody_runs(rest), SLEEPING_S)
    asleep = (await fetched(rest, f"/replica-sets/{sleepy}"))["autoscalingStatus"]
    assert (asleep["scaledTo"], asleep["scaledWhy"]) == (0, "nobody asked for 2 s")
    shown = await asyncio.to_thread(served.platform.aiops, "replica-sets", "show", MODEL)
    assert "0 to 2; 8 at a time for each" in shown.stdout, shown.stderr
    assert "nobody asked for 2 s" in shown.stdout
    asked = await asyncio.to_thread(
        served.platform.aiops_json, "autoscale", MODEL, "--min", "0", "--max", "1", "--queue", "2", "--hold", "60"
    )
    assert (asked["autoscaling"]["targetQueue"], asked["autoscaling"]["holdSeconds"]) == (2, 60)
    assert "autoscaling" not in await asyncio.to_thread(served.platform.aiops_json, "autoscale", MODEL, "--off")
