"""vLLM on a whole platform: options reach it, adapters come and go by their own names, and its load is told."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.lora import write_adapter
from tests.fakes.eventually import eventually
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.fixtures.platform import Platform
from tests.platform.served import deploy, fetched, question, settled

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)
# vLLM on a busy machine with two cores.
START_S = 400.0
SOON_S = 60.0


@pytest.fixture
async def rest(new_platform: Platform, vllm_executable: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The API of a platform whose one node has vLLM, as its first user."""
    new_platform.environment["AIOPS_ENGINE_VLLM"] = str(vllm_executable)
    new_platform.start(nodes=1)
    async with httpx.AsyncClient(base_url=new_platform.url, timeout=120, trust_env=False) as client:
        credentials = {"email": "admin@localhost", "password": new_platform.admin_password}
        token = (await client.post("/auth/login", json=credentials)).json()["accessToken"]
        client.headers["authorization"] = f"Bearer {token}"
        yield client


async def chat(rest: httpx.AsyncClient, model: str) -> httpx.Response:
    return await rest.post("/v1/chat/completions", json={**question(model, tokens=30), "temperature": 0})


async def test_an_adapter_is_a_model_of_its_own_while_its_deployment_has_it(
    rest: httpx.AsyncClient, new_platform: Platform, demo_model: Path, tmp_path: Path
) -> None:
    new_platform.aiops_json("models", "import", str(demo_model), "--name", "base")
    new_platform.aiops_json("models", "import", str(write_adapter(tmp_path / "lora")), "--name", "pirate")
    options = {"maxAdapters": 1, "extra": {"dtype": "float32"}}
    made = await deploy(rest, modelId="base", contextTokens=1024, maxConcurrency=8, engineOptions=options)
    base = await settled(rest, made["deploymentId"], within_s=START_S)
    assert (base["status"], base["engine"]) == ("running", "vllm"), base
    here = f"/deployments/{base['deploymentId']}"
    await eventually(lambda: _answers(rest, "base", 200), SOON_S)
    plain = await chat(rest, "base")
    assert plain.status_code == 200, plain.text
    too_long = await rest.post("/v1/chat/completions", json=question("base", "word " * 1500))
    assert (too_long.status_code, "1024" in too_long.json()["error"]["message"]) == (400, True)

    assert (await rest.post(f"{here}/adapters", json={"modelId": "pirate"})).status_code == 200
    await eventually(lambda: _is_loaded(rest, here), SOON_S)
    await eventually(lambda: _answers(rest, "pirate", 200), SOON_S)
    changed = await chat(rest, "pirate")
    assert changed.json()["choices"][0]["message"] != plain.json()["choices"][0]["message"]
    assert {"base", "pirate"} <= {each["id"] for each in (await fetched(rest, "/v1/models"))["data"]}
    private = await rest.post(f"/models/base/{base['instanceId']}/v1/unload_lora_adapter", json={"lora_name": "pirate"})
    assert private.status_code == 404
    assert (await rest.delete("/models/pirate")).status_code == 400

    await eventually(lambda: _tells_tokens(rest, here), SOON_S)
    assert (await rest.delete(f"{here}/adapters/pirate")).status_code == 200
    await eventually(lambda: _answers(rest, "pirate", 404), SOON_S)
    assert (await chat(rest, "base")).json()["choices"] == plain.json()["choices"]
    assert (await rest.delete("/models/pirate")).status_code == 200


async def _is_loaded(rest: httpx.AsyncClient, deployment: str) -> bool:
    (adapter,) = (await fetched(rest, deployment))["adapters"]
    assert adapter["state"] != "failed", adapter
    return bool(adapter["state"] == "loaded")


async def _answers(rest: httpx.AsyncClient, model: str, status: int) -> bool:
    return (await chat(rest, model)).status_code == status


async def _tells_tokens(rest: httpx.AsyncClient, deployment: str) -> bool:
    metrics: dict[str, Any] = await fetched(rest, f"{deployment}/metrics")
    load: dict[str, float] = metrics.get("engineLoad") or {}
    return load.get("requests", 0) >= 3 and load["generatedTokens"] > 3 and load["firstTokens"] > 0
