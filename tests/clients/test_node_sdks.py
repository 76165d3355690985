"""OpenAI's and Anthropic's SDKs for Node.js as they come, with the gateway as their base URL."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Gateway
from tests.fakes.provider import Reply, chat

pytestmark = pytest.mark.asyncio(loop_scope="package")
PROJECT = Path(__file__).parent / "node"
TIMEOUT_S = 100
LIMITED = Reply({"error": {"message": "slow down"}}, status=429, headers={"retry-after-ms": "1"})
VECTOR = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
USAGE = {"prompt_tokens": 2, "total_tokens": 2}


async def run(*command: str | Path, cwd: Path) -> str:
    """The standard output of a command that must succeed."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, error = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (out + error).decode()
    return out.decode()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the packages of the lock are put."""
    directory = tmp_path_factory.mktemp("node") / "sdks"
    shutil.copytree(PROJECT, directory, ignore=shutil.ignore_patterns("node_modules"))
    return directory


async def saw(project: Path, script: str, gateway: Gateway) -> dict[str, Any]:
    """What a script saw."""
    if not (project / "node_modules").exists():
        await run("npm", "ci", "--no-audit", "--no-fund", "--prefer-offline", cwd=project)
    seen: dict[str, Any] = json.loads(await run("node", script, gateway.edge.url, gateway.key, cwd=project))
    return seen


async def test_openais_sdk(project: Path, gateway: Gateway) -> None:
    gateway.provider.script(
        gateway.calls("far"),
        gateway.calls("claude", streamed=True),
        Reply(chat('{"name": "Köln"}')),
        Reply({"object": "list", "data": [VECTOR], "model": "far", "usage": USAGE}),
        *(LIMITED, Reply(chat("at last"))),
        gateway.breaks("far"),
        Reply(chat(), held=True),
    )
    seen = await saw(project, "openai.mjs", gateway)
    assert (seen["chat"], seen["stream"]) == ("tiny: Hello!", "Hello!")
    for called in (seen["tool"], seen["streamedTool"]):
        assert (called["name"], json.loads(called["arguments"])) == ("weather", {"city": "Köln"})
    assert (seen["structured"], seen["embedding"], seen["retried"]) == ({"name": "Köln"}, [0.5, 0.25], "at last")
    assert seen["unknown"] == {"kind": "NotFoundError", "status": 404, "code": "model_not_found"}
    assert seen["stranger"]["kind"] == "AuthenticationError"
    assert seen["broken"]["kind"] == "APIError"
    assert seen["slow"]["kind"] == "APIConnectionTimeoutError"
    assert set(seen["models"]) == {"tiny", "far", "claude"}


async def test_anthropics_sdk(project: Path, gateway: Gateway) -> None:
    gateway.provider.script(
        gateway.calls("far"),
        gateway.calls("far", streamed=True),
        *(LIMITED, Reply(chat("at last"))),
        Reply(chat(), held=True),
    )
    seen = await saw(project, "anthropic.mjs", gateway)
    assert (seen["message"], seen["stream"], seen["retried"]) == ("tiny: Hello!", "Hello!", "at last")
    assert seen["tool"] == seen["streamedTool"] == {"city": "Köln"}
    assert seen["unknown"] == {"kind": "NotFoundError", "status": 404}
    assert seen["stranger"] == {"kind": "AuthenticationError", "status": 401}
    assert seen["slow"]["kind"] == "APIConnectionTimeoutError"


async def test_the_lock_names_no_registry() -> None:
    assert "http" not in await asyncio.to_thread((PROJECT / "package-lock.json").read_text)
