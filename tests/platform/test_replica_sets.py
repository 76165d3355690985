"""Replicas come, change and go while clients chat, and none of them is refused once."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.model_files import tiny_model
from tests.fixtures.platform import Platform
from tests.platform.chats import chatting

MODEL = "many"


@pytest.fixture
def fleet(new_platform: Platform, engine_program: Path, tmp_path: Path) -> Platform:
    """A platform with three nodes whose engine starts at once, and a model in its registry."""
    new_platform.environment["AIOPS_ENGINE_TRANSFORMERS"] = str(engine_program)
    new_platform.environment["AIOPS_NODE_RESTART_LIMIT"] = "0"
    new_platform.start(nodes=3)
    directory = tmp_path / "model"
    directory.mkdir()
    for name, content in tiny_model().items():
        (directory / name).write_bytes(content)
    new_platform.aiops_json("models", "import", str(directory), "--name", MODEL)
    return new_platform


async def aiops(fleet: Platform, *arguments: str) -> Any:
    """What a command answers, while clients go on."""
    return await asyncio.to_thread(fleet.aiops_json, *arguments)


async def nodes_of(fleet: Platform) -> list[str]:
    """The nodes of what deploys or runs."""
    listed = await aiops(fleet, "deployments", "ls")
    return sorted(each["nodeId"] for each in listed if each["status"] in ("deploying", "running"))


@pytest.mark.timeout(300)
async def test_a_rollout_scaling_and_a_drained_node_refuse_nobody(fleet: Platform) -> None:
    made = await aiops(fleet, "deploy", MODEL, "--replicas", "2", "--wait")
    assert (made["status"], made["readyReplicas"], made["stableRevision"]) == ("ready", 2, 1)
    assert len(set(await nodes_of(fleet))) == 2
    credentials = {"email": "admin@localhost", "password": fleet.admin_password}
    async with httpx.AsyncClient(base_url=fleet.url, timeout=30, trust_env=False) as rest:
        token = (await rest.post("/auth/login", json=credentials)).json()["accessToken"]
        rest.headers["authorization"] = f"Bearer {token}"
        async with chatting(rest, MODEL) as chats:
            await chats.more(5)
            wish = ("--env", "GENERATION=2", "--model-revision", "1")
            rolled = await aiops(fleet, "rollout", "start", MODEL, *wish, "--wait")
            assert (rolled["stableRevision"], rolled["updatedReplicas"]) == (2, 2)
            assert rolled["template"]["modelRevisionNumber"] == 1
            assert (await aiops(fleet, "scale", MODEL, "3", "--wait"))["readyReplicas"] == 3
            emptied, *others = await nodes_of(fleet)
            assert len({emptied, *others}) == 3
            assert (await aiops(fleet, "nodes", "drain", emptied, "--wait"))["drained"]
            assert emptied not in await nodes_of(fleet)
            assert (await aiops(fleet, "rollout", "status", MODEL, "--wait"))["readyReplicas"] == 3
            await aiops(fleet, "nodes", "resume", emptied)
            await aiops(fleet, "scale", MODEL, "1", "--wait")
            assert len(await nodes_of(fleet)) == 1
            # Those that are to end answer what they were asked, and nobody asks them any more.
            await chats.go_on(1)
    assert chats.failed == []
    failing = fleet.aiops("rollout", "start", MODEL, "--env", "FAKE_ENGINE=exit", "--wait")
    assert failing.returncode == 1
    assert "was taken back to revision 2" in failing.stderr
    assert (await aiops(fleet, "rollout", "status", MODEL))["readyReplicas"] == 1
    await aiops(fleet, "replica-sets", "delete", MODEL)
