"""A platform whose node runs its engines in containers: a real engine's image, and a server of one's own."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from docker import APIClient

from tests.fakes.eventually import eventually
from tests.fixtures.docker_engine import IMAGE_TIMEOUT_S
from tests.fixtures.platform import Platform, running_platform
from tests.platform.outages import pid_of
from tests.platform.served import START_S, fetched, question

# The first time, an image is built and then started.
pytestmark = pytest.mark.timeout(2 * IMAGE_TIMEOUT_S)
SOON_S = 120.0


@pytest.fixture(scope="module")
def fleet(docker_url: str, custom_image: str, transformers_image: str) -> Iterator[Platform]:
    """A platform with one node, which has Docker and settings that name images."""
    settings = {
        "AIOPS_DOCKER_HOST": docker_url,
        "AIOPS_IMAGE_TRANSFORMERS": transformers_image,
        "AIOPS_IMAGES_ALLOWED": custom_image,
    }
    for platform in running_platform(settings):
        platform.start(nodes=1)
        yield platform


@pytest.fixture
async def rest(fleet: Platform) -> AsyncIterator[httpx.AsyncClient]:
    """The API, as the first user."""
    async with httpx.AsyncClient(base_url=fleet.url, timeout=60, trust_env=False) as client:
        credentials = {"email": "admin@localhost", "password": fleet.admin_password}
        token = (await client.post("/auth/login", json=credentials)).json()["accessToken"]
        client.headers["authorization"] = f"Bearer {token}"
        yield client


async def test_a_real_engine_in_a_container_outlives_its_agent_and_comes_back_when_it_dies(
    fleet: Platform, rest: httpx.AsyncClient, docker_client: APIClient, demo_model: Path, transformers_image: str
) -> None:
    fleet.aiops_json("models", "import", str(demo_model), "--name", "boxed")
    made = fleet.aiops_json("deploy", "boxed", "--wait")
    assert (made["engine"], made["image"], made["status"]) == ("transformers", transformers_image, "running")
    here = f"/deployments/{made['deploymentId']}"
    await eventually(lambda: answers(rest, "boxed"), SOON_S)
    first = docker_client.inspect_container(made["containerId"])
    assert (first["Config"]["User"], first["HostConfig"]["ReadonlyRootfs"]) == ("10001:10001", True)
    assert "chat/completions" in fleet.aiops("logs", made["deploymentId"]).stdout

    # Another agent takes the container as it is.
    agent = pid_of(fleet, "node-1")
    os.kill(agent, signal.SIGKILL)
    fleet.until(lambda state: state.service("node-1").pid not in {None, agent} and not state.unhealthy())
    adopted = await fetched(rest, here)
    assert (adopted["status"], adopted["containerId"], adopted.get("restarts", 0)) == ("running", first["Id"], 0)
    assert docker_client.inspect_container(first["Id"])["State"]["StartedAt"] == first["State"]["StartedAt"]

    # One that somebody else ends is started anew.
    docker_client.kill(first["Id"])
    await eventually(lambda: runs_again(rest, here), START_S)
    await eventually(lambda: answers(rest, "boxed"), SOON_S)
    again = await fetched(rest, here)
    assert again["containerId"] != first["Id"]

    assert fleet.aiops_json("deployments", "stop", made["deploymentId"])["status"] == "stopped"
    await eventually(lambda: is_gone(docker_client, made["deploymentId"]), SOON_S)
    assert (await chat(rest, "boxed")).status_code == 404


async def test_an_image_and_a_command_of_ones_own_are_asked_where_the_user_says(
    fleet: Platform, rest: httpx.AsyncClient, docker_client: APIClient, demo_model: Path, custom_image: str
) -> None:
    fleet.aiops_json("models", "import", str(demo_model), "--name", "mine", "--framework", "custom", "--task", "nlp")
    own = ["--image", custom_image, "--health-path", "/up", "--inference-path", "/ask"]
    own += ["--command", "python3 -S -E /opt/server.py /up '/ask'", "--env", "GREETING=hello"]
    made = fleet.aiops_json("deploy", "mine", *own, "--wait")
    assert (made["engine"], made["image"], made["status"]) == ("custom", custom_image, "running")
    here = f"/models/mine/{made['instanceId']}"
    await eventually(lambda: infers(rest, here), SOON_S)
    inside = docker_client.inspect_container(made["containerId"])["Config"]
    assert inside["Entrypoint"] + inside["Cmd"] == ["python3", "-S", "-E", "/opt/server.py", "/up", "/ask"]
    assert "GREETING=hello" in inside["Env"]
    fleet.aiops_json("deployments", "stop", made["deploymentId"])

    several = fleet.aiops_json("deploy", "mine", *own, "--replicas", "2", "--wait")
    assert several["template"]["paths"] == {"health": "/up", "inference": "/ask"}
    assert several["template"]["command"][-2:] == ["/up", "/ask"]
    fleet.aiops_json("replica-sets", "delete", several["replicaSetId"])
    await eventually(lambda: is_gone(docker_client, "dep-"), SOON_S)


def test_what_only_custom_models_can_have_is_refused_for_others(fleet: Platform, demo_model: Path) -> None:
    fleet.aiops_json("models", "import", str(demo_model), "--name", "plain")
    for more in ([], ["--replicas", "2"]):
        done = fleet.aiops("deploy", "plain", "--health-path", "/up", *more)
        assert done.returncode == 2
        assert "custom" in done.stderr
    wrong = fleet.aiops("deploy", "plain", "--command", "'unclosed")
    assert (wrong.returncode, "--command" in wrong.stderr) == (2, True)


async def chat(rest: httpx.AsyncClient, model: str) -> httpx.Response:
    return await rest.post("/v1/chat/completions", json=question(model))


async def answers(rest: httpx.AsyncClient, model: str) -> bool:
    return (await chat(rest, model)).status_code == 200


async def infers(rest: httpx.AsyncClient, instance: str) -> bool:
    """Whether the gateway brings an inference to the path that was named."""
    answer = await rest.post(f"{instance}/v1/inference", json={"question": 1})
    return answer.status_code == 200 and answer.json() == {"model": "mine", "asked": {"question": 1}, "uid": 10001}


async def runs_again(rest: httpx.AsyncClient, deployment: str) -> bool:
    now = await fetched(rest, deployment)
    return bool(now["status"] == "running" and now["restarts"] == 1)


async def is_gone(client: APIClient, workload: str) -> bool:
    """Whether no container is left of the workloads whose ids begin so."""
    found = client.containers(all=True, filters={"label": "io.aiops.workload"})
    return not [each for each in found if each["Labels"]["io.aiops.workload"].startswith(workload)]
