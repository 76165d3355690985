"""Deployments that a node cannot start: they fail soon, say why, and leave the way free for the next."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fakes.eventually import eventually
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.platform.served import Served, deploy, fetched, question, running, settled, stop

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)

NODE = "node-2"
# The directory itself and the four in it, and one file.
FEW_FILES = 6


async def statuses(rest: httpx.AsyncClient) -> dict[str, str]:
    """Every deployment and how it stands; what is measured of them changes by itself."""
    deployments = (await fetched(rest, "/deployments"))["deployments"]
    return {each["deploymentId"]: each["status"] for each in deployments}


async def test_a_port_in_use_is_named_with_its_holder(served: Served, rest: httpx.AsyncClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        placed = await deploy(rest, modelId=served.model, nodeId=served.nodes[NODE], port=port)
        failed = await settled(rest, placed["deploymentId"])
    assert (failed["status"], failed["phase"]) == ("failed", "failed")
    assert "PORT_IN_USE" in failed["errorMessage"]
    assert re.search(rf"port {port} is in use by \S+ \(pid {os.getpid()}\)", failed["errorMessage"])
    assert (await rest.post(failed["endpoint"], json=question(served.model))).status_code == 404
    assert (await stop(rest, failed["deploymentId"]))["status"] == "stopped"


async def test_a_port_of_another_deployment_is_refused_before_it_is_placed(
    served: Served, rest: httpx.AsyncClient
) -> None:
    before = await statuses(rest)
    wish = {"modelId": served.model, "nodeId": served.nodes[NODE], "port": served.replicas[NODE]["port"]}
    answer = await rest.post("/deployments", json=wish)
    assert (answer.status_code, answer.json()["details"][0]["reason"]) == (400, "PORT_IN_USE")
    assert str(wish["port"]) in answer.json()["message"]
    assert await statuses(rest) == before


async def test_a_plan_says_for_every_node_why_it_cannot(served: Served, rest: httpx.AsyncClient) -> None:
    before = await statuses(rest)
    wish = {"modelId": served.model, "gpuDevice": "7"}
    plan = (await rest.post("/deployments/plan", json=wish)).json()
    assert "placement" not in plan
    assert {refusal["nodeName"] for refusal in plan["refusals"]} == set(served.nodes)
    assert all("it has no GPU 7" in refusal["reason"] for refusal in plan["refusals"])
    answer = await rest.post("/deployments", json=wish)
    assert (answer.status_code, answer.json()["code"]) == (400, 9)
    assert answer.json()["details"][0]["reason"] == "GPU_DEVICE_NOT_FOUND"
    for name, node_id in served.nodes.items():
        assert f"{name} ({node_id})" in answer.json()["message"]
    chosen = (await rest.post("/deployments/plan", json={"modelId": served.model})).json()
    assert chosen["placement"]["nodeId"] in served.nodes.values()
    assert chosen["placement"]["memoryMb"] > 0
    assert "MB are needed" in chosen["placement"]["explanation"]
    assert await statuses(rest) == before


@pytest.fixture
def small_cache(served: Served) -> Iterator[Path]:
    """The node's cache on a file system of its own, for as long as the test."""
    cache = served.platform.home.node(NODE) / "cache"
    if mount(cache, f"size=64m,nr_inodes={FEW_FILES}") != 0:
        pytest.skip("mounting is not permitted here; a limit of the cache is tested with the node agent")
    try:
        for name in ("blobs", "partial", "quarantine", "models"):
            (cache / name).mkdir()
        yield cache
    finally:
        # An engine may still have files open.
        subprocess.run(["umount", "--lazy", str(cache)], check=True)


async def test_a_disk_that_fills_up_while_the_model_comes_fails_the_deployment_until_there_is_space(
    served: Served, rest: httpx.AsyncClient, small_cache: Path
) -> None:
    for limits in (f"size=64m,nr_inodes={FEW_FILES}", "size=2m,nr_inodes=1000"):
        assert mount(small_cache, f"remount,{limits}") == 0
        placed = await deploy(rest, modelId=served.model, nodeId=served.nodes[NODE])
        failed = await settled(rest, placed["deploymentId"])
        assert failed["status"] == "failed"
        assert "DISK_FULL" in failed["errorMessage"]
        assert f"no space for {small_cache}" in failed["errorMessage"]
        assert "MB are free" in failed["errorMessage"]
        assert list((small_cache / "partial").iterdir()) == []
        await stop(rest, failed["deploymentId"])
    assert mount(small_cache, "remount,size=64m,nr_inodes=1000") == 0
    placed = await deploy(rest, modelId=served.model, nodeId=served.nodes[NODE])
    works = await running(rest, placed["deploymentId"])

    async def is_answered() -> bool:
        return (await rest.post(works["endpoint"], json=question(served.model))).status_code == 200

    await eventually(is_answered)
    await stop(rest, works["deploymentId"])


def mount(directory: Path, options: str) -> int:
    """Mount, or remount, a small file system; answers the exit status."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    return subprocess.run(command, capture_output=True, check=False).returncode
