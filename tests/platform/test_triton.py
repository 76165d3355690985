"""The example models from the command line to an answer by a real Triton, which is killed and comes back."""

import base64
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.fakes.eventually import eventually
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.fixtures.triton import CLASSIFIER, EXAMPLES, RECOGNISER, asked_by_client, binary_infer, outputs_of
from tests.platform.served import Served, deploy, fetched, running, stop

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)
STAR = (EXAMPLES / "samples" / "star.png").read_bytes()
SPEECH = (EXAMPLES / "samples" / "three-one-four.wav").read_bytes()
BACK_S = 60.0


@pytest_asyncio.fixture
async def deployed(served: Served, rest: httpx.AsyncClient, triton_executable: Path) -> AsyncIterator[dict[str, Any]]:
    """Both examples, running, by name."""
    found = {}
    for name, folder in (("shapes", CLASSIFIER), ("digits", RECOGNISER)):
        model = served.platform.aiops_json("models", "import", str(folder), "--name", name)["model"]
        assert (model["framework"], model["modelFormat"]) == ("triton", "onnx")
        found[name] = await running(rest, (await deploy(rest, modelId=name))["deploymentId"])
    yield found
    for name, deployment in found.items():
        await stop(rest, deployment["deploymentId"])
        assert (await rest.delete(f"/models/{name}")).status_code == 200


async def infer(rest: httpx.AsyncClient, path: str, tensor: str, content: bytes) -> httpx.Response:
    body, headers = binary_infer(tensor, content)
    return await rest.post(path, content=body, headers=headers)


async def test_the_examples_are_served_over_http_and_grpc_and_come_back_when_killed(
    served: Served, rest: httpx.AsyncClient, deployed: dict[str, Any], triton_executable: Path
) -> None:
    shapes, digits = deployed["shapes"], deployed["digits"]
    assert (shapes["engine"], digits["engine"]) == ("triton", "triton")

    async def led_to() -> bool:
        answers = [await rest.get(f"/v2/models/{name}/ready") for name in deployed]
        return all(answer.status_code == 200 for answer in answers)

    await eventually(led_to, 10)
    assert outputs_of(await infer(rest, "/v2/models/shapes/infer", "image", STAR))["label"][0] == "star"
    assert outputs_of(await infer(rest, shapes["endpoint"], "image", STAR))["label"][0] == "star"
    assert outputs_of(await infer(rest, "/v2/models/digits/infer", "audio", SPEECH)) == {"text": ["three one four"]}
    call = {"over": "grpc", "do": "infer", "model": "digits", "input": "audio", "outputs": ["text"]}
    call["content"] = base64.b64encode(SPEECH).decode()
    address = served.platform.url.removeprefix("http://")
    assert await asked_by_client(triton_executable, address, served.api_key, call) == [{"text": ["three one four"]}]

    os.kill(int(shapes["containerId"]), signal.SIGKILL)

    async def is_back() -> bool:
        now = await fetched(rest, f"/deployments/{shapes['deploymentId']}")
        return now["status"] == "running" and now["containerId"] not in ("", shapes["containerId"])

    await eventually(is_back, BACK_S)

    async def answers_again() -> bool:
        return (await infer(rest, "/v2/models/shapes/infer", "image", STAR)).status_code == 200

    await eventually(answers_again, 10)
