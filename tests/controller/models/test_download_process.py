"""A download outlives its controller, and the command line shows how it goes."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from tests.fakes.eventually import eventually
from tests.fakes.hub import PIECE, HubRepo, run_hub
from tests.fakes.model_files import tiny_model
from tests.fixtures.controller_process import ADMIN_EMAIL, ADMIN_PASSWORD, RunningController

REPO = "acme/tiny-chat"
COMMAND_TIMEOUT_S = 60


@dataclass(frozen=True)
class CommandLine:
    """`aiops` against one controller."""

    environment: dict[str, str]

    async def run(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """Exit status, and what it said on both outputs."""
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", *arguments),
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            out, err = await child.communicate(stdin.encode())
        return child.returncode or 0, out.decode(), err.decode()


@pytest.fixture
def aiops(new_controller: RunningController, tmp_path: Path) -> CommandLine:
    """The command line, not signed in."""
    return CommandLine(
        {
            **os.environ,
            "AIOPS_URL": f"http://{new_controller.api}",
            "AIOPS_HOME": str(new_controller.home),
            "AIOPS_CONFIG": str(tmp_path / "credentials.json"),
        }
    )


@pytest.mark.timeout(240)
async def test_a_killed_controller_is_followed_by_one_that_goes_on(
    new_controller: RunningController, aiops: CommandLine, database: str
) -> None:
    async with run_hub() as hub:
        hub.repos[REPO] = HubRepo(tiny_model(rows=10_000))
        hub.hold, hub.holds_after = asyncio.Event(), PIECE * 3
        new_controller.environment["AIOPS_HUB_URL"] = hub.url
        await asyncio.to_thread(new_controller.start)
        await aiops.run("login", "--email", ADMIN_EMAIL, "--password-stdin", stdin=f"{ADMIN_PASSWORD}\n")
        code, begun, error = await aiops.run("models", "download", REPO, "-o", "json")
        assert code == 0, error

        folder = new_controller.home / "downloads" / json.loads(begun)["downloadId"]

        async def came() -> bool:
            """What the hub has sent is on the controller's disk, but for what it has not flushed."""
            return any(path.stat().st_size >= PIECE * 2 for path in folder.glob("*.part"))

        await eventually(came, within_s=30)
        await asyncio.to_thread(new_controller.kill)
        hub.hold = held = asyncio.Event()
        await _end_leases(database)
        await asyncio.to_thread(new_controller.start)
        code, again, error = await aiops.run("models", "download", REPO, "-o", "json")
        assert (code, json.loads(again)["downloadId"]) == (0, json.loads(begun)["downloadId"])
        held.set()

        async def succeeded() -> bool:
            _, listed, _ = await aiops.run("models", "downloads", "-o", "json")
            return [each["state"] for each in json.loads(listed)] == ["succeeded"]

        await eventually(succeeded, within_s=60)
        assert hub.ranges("model.safetensors")[-1].startswith("bytes=")
        _, listed, _ = await aiops.run("models", "downloads")
        assert "apache-2.0" in listed
        code, _, error = await aiops.run("models", "download", "acme/none", "--wait")
        assert (code, "see how it is spelt" in error) == (1, True)


async def _end_leases(database: str) -> None:
    """As if the dead controller's lease had run out."""
    connection = await asyncpg.connect(database.replace("+asyncpg", ""))
    try:
        await connection.execute("SELECT set_config('aiops.org', '*', false)")
        await connection.execute("UPDATE model_downloads SET lease_until = now() - interval '1 s'")
    finally:
        await connection.close()
