"""The agent and its containers: a server of one's own is deployed, adopted, starved, refused, and ended."""

import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from aiops.nodes.v1 import node_session_service_pb2 as pb
from docker import APIClient
from docker.errors import APIError

from node_agent.runtime.docker.container import OWNER
from tests.fakes.controller import FakeController
from tests.fakes.narrow import narrow
from tests.fakes.nvml.build import build_nvml
from tests.fixtures.docker_engine import IMAGE_TIMEOUT_S, docker_daemon, import_base
from tests.fixtures.image_registry import BIG, ImageRegistry, only_in
from tests.fixtures.images import build_custom
from tests.fixtures.node_agent import AgentProcess

Workload = Callable[..., pb.WorkloadSpec]
CUSTOM = Path(__file__).parents[3] / "workloads" / "custom"
pytestmark = pytest.mark.timeout(IMAGE_TIMEOUT_S)


@pytest.fixture
async def contained(
    agent: AgentProcess, controller: FakeController, docker_url: str, docker_client: APIClient, custom_image: str
) -> AsyncIterator[AgentProcess]:
    """An agent with Docker that may run the custom image; its containers are removed with the test."""
    agent.environment |= {"AIOPS_DOCKER_HOST": docker_url, "AIOPS_IMAGES_ALLOWED": "aiops/*"}
    agent.environment["AIOPS_NODE_RESTART_LIMIT"] = "0"
    await agent.start()
    await controller.until(lambda it: it.hellos)
    yield agent
    for started in agent.started:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.wait()
    for each in docker_client.containers(all=True, filters={"label": f"{OWNER}={agent.home}#"}):
        with contextlib.suppress(APIError):  # an agent that was killed may have begun to remove it
            docker_client.remove_container(each["Id"], force=True)


@pytest.fixture
def custom(workload: Workload, custom_image: str) -> Workload:
    """Makes specifications of workloads in the custom image."""

    def make(workload_id: str = "dep-1", **fields: object) -> pb.WorkloadSpec:
        usual: dict[str, object] = {"framework": "custom", "task": "nlp", "image": custom_image}
        name = f"model-{id(make)}-{workload_id}"
        return workload(workload_id, **{**usual, "container_name": name, "memory_limit_mb": 200, **fields})

    return make


async def ask(port: int, path: str = "/v1/inference", body: str = '{"question": 1}') -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        return await client.post(path, content=body)


async def test_a_server_in_a_container_answers_and_is_adopted_by_the_next_agent(
    contained: AgentProcess, controller: FakeController, custom: Workload, docker_client: APIClient
) -> None:
    assert "docker" in controller.hellos[0].runtime_report.names
    controller.want(custom())
    running = await controller.until_status("dep-1", "running", 60)
    assert (running.runtime, running.engine, running.facts.inference_path) == ("docker", "custom", "/v1/inference")
    assert (await ask(running.port)).json() == {"model": "demo", "asked": {"question": 1}, "uid": 10001}
    labels = docker_client.inspect_container(running.container_id)["Config"]["Labels"]
    assert (labels["io.aiops.workload"], labels["io.aiops.epoch"]) == ("dep-1", "1")
    page = await controller.read_log("dep-1", 0, 4096)
    assert b"model.safetensors" in page.content

    await contained.end(signal.SIGKILL)
    await contained.start()
    await controller.until(lambda it: len(it.hellos) == 2)
    [told] = controller.hellos[-1].workloads
    assert (told.container_id, told.state) == (running.container_id, pb.WorkloadStatus.running)
    assert (await ask(running.port)).status_code == 200

    controller.want(custom(goal=pb.WorkloadSpec.end))
    stopped = await controller.until_status("dep-1", "stopped", 60)
    assert (stopped.event, stopped.exit_code) == ("stopped", 0)
    assert not docker_client.containers(all=True, filters={"label": f"{OWNER}={contained.home}#"})


async def test_a_container_without_a_journal_is_known_by_its_labels(
    contained: AgentProcess, controller: FakeController, custom: Workload
) -> None:
    controller.want(custom())
    running = await controller.until_status("dep-1", "running", 60)
    await contained.end(signal.SIGKILL)
    (contained.home / "journal.json").unlink()
    await contained.start()
    again = await controller.until_status("dep-1", "running", 60, after=len(controller.statuses))
    assert (again.container_id, again.facts) == (running.container_id, running.facts)


async def test_too_much_memory_is_told_as_that_with_what_to_do(
    contained: AgentProcess, controller: FakeController, custom: Workload
) -> None:
    controller.want(custom(memory_limit_mb=80))
    running = await controller.until_status("dep-1", "running", 60)
    with contextlib.suppress(httpx.HTTPError):
        await ask(running.port, "/eat", "300")
    failed = await controller.until_status("dep-1", "failed", 60)
    assert (failed.event, failed.error_reason) == ("oom", "OUT_OF_MEMORY")
    assert "at its limit of 100 MB" in failed.error
    assert "node with more free memory" in failed.error


async def test_an_image_that_may_not_run_is_refused_naming_the_setting(
    contained: AgentProcess, controller: FakeController, custom: Workload
) -> None:
    controller.want(custom(image="elsewhere/anything:latest"))
    failed = await controller.until_status("dep-1", "failed", 60)
    assert failed.error_reason == "IMAGE_NOT_ALLOWED"
    assert "AIOPS_IMAGES_ALLOWED" in failed.error
    assert "aiops/*" in failed.error


async def test_an_image_that_cannot_be_pulled_fails_in_plain_words(
    contained: AgentProcess, controller: FakeController, custom: Workload, unused_tcp_port: int
) -> None:
    contained.environment["AIOPS_IMAGES_ALLOWED"] = "*"
    await contained.end()
    await contained.start()
    await controller.until(lambda it: len(it.hellos) == 2)
    controller.want(custom(image=f"127.0.0.1:{unused_tcp_port}/nothing:1"))
    failed = await controller.until_status("dep-1", "failed", 60)
    assert failed.error_reason == "IMAGE_PULL_FAILED"
    assert "the registry cannot be reached from this node" in failed.error


async def test_a_card_that_docker_cannot_hand_over_is_told_as_that(
    contained: AgentProcess, controller: FakeController, custom: Workload, tmp_path: Path
) -> None:
    (script := tmp_path / "nvml.txt").touch()
    library = tmp_path / "library"
    library.mkdir()
    contained.environment |= {"LD_LIBRARY_PATH": str(build_nvml(library)), "FAKE_NVML": str(script)}
    await contained.end()
    await contained.start()
    await controller.until(lambda it: len(it.hellos) == 2)
    controller.want(custom(gpu_devices=["1"]))
    failed = await controller.until_status("dep-1", "failed", 60)
    assert failed.error_reason == "GPU_DEVICE_NOT_FOUND"
    assert "NVIDIA container toolkit" in failed.error


async def test_a_pull_is_told_in_percent_bytes_and_layers_and_then_the_model_is_fetched(
    contained: AgentProcess,
    controller: FakeController,
    custom: Workload,
    docker_client: APIClient,
    image_registry: ImageRegistry,
    noise: str,
) -> None:
    contained.environment["AIOPS_IMAGES_ALLOWED"] = "127.0.0.1:*/noise:*"
    await contained.end()
    await contained.start()
    await controller.until(lambda it: len(it.hellos) == 2)
    with only_in(image_registry, docker_client, noise):
        async with narrow(image_registry.address, BIG // 2) as relay:
            controller.want(custom(image=f"{relay.address}/noise:1"))
            await controller.until(lambda it: [each for each in it.statuses if "of 2 layers" in each.detail], 60)
            relay.widen()
            # It is an image of nothing that runs.
            failed = await controller.until_status("dep-1", "failed", 60)
    told = [each for each in controller.statuses if "of 2 layers" in each.detail]
    assert {each.state for each in told} == {pb.WorkloadStatus.downloading}
    assert all(each.progress <= 50 and each.detail.startswith("image: ") for each in told)
    assert "/big" in failed.error


async def test_a_command_of_ones_own_runs_without_a_container_only_where_it_may(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    agent.environment |= {"AIOPS_DOCKER_HOST": "none", "AIOPS_COMMANDS_ALLOWED": "/usr/bin/python3*"}
    await agent.start()
    await controller.until(lambda it: it.hellos)
    assert "custom" in controller.hellos[0].engines
    server = ["/usr/bin/python3", "-S", "-E", f"{CUSTOM}/server.py"]
    controller.want(workload(framework="custom", command=server, image=""))
    running = await controller.until_status("dep-1", "running", 60)
    assert (await ask(running.port)).json()["model"] == "demo"
    controller.want(workload("dep-2", framework="custom", command=["/bin/sh", "-c", "true"]))
    failed = await controller.until_status("dep-2", "failed", 60)
    assert failed.error_reason == "COMMAND_NOT_ALLOWED"
    assert "AIOPS_COMMANDS_ALLOWED" in failed.error


async def test_an_engine_that_goes_away_and_returns_loses_nothing(
    agent: AgentProcess, controller: FakeController, custom: Workload, base_archive: Path
) -> None:
    with docker_daemon() as daemon:
        client = APIClient(base_url=daemon.url, version="auto")
        build_custom(client, import_base(client, base_archive))
        agent.environment |= {"AIOPS_DOCKER_HOST": daemon.url, "AIOPS_IMAGES_ALLOWED": "aiops/*"}
        await agent.start()
        await controller.until(lambda it: it.hellos)
        controller.want(custom())
        running = await controller.until_status("dep-1", "running", 60)
        daemon.stop()
        await controller.until(lambda it: it.received[-1].heartbeat.runtime_report.trouble, 60)
        assert "docker" not in controller.received[-1].heartbeat.runtime_report.names
        seen = len(controller.statuses)
        controller.want(custom("dep-2"))
        await controller.until_status("dep-2", "downloading", 60)
        daemon.start()
        await controller.until_status("dep-2", "running", 60, after=seen)
        died = [each for each in controller.statuses if each.workload_id == "dep-1" and each.event == "died"]
        assert not died
        assert client.inspect_container(running.container_id)["State"]["Running"]
        await agent.end()
        client.close()
