"""Faults of disks: full, failing, slow, and files that are not what they were."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.fakes.model_files import tiny_model
from tests.robustness.conftest import Scenarios
from tests.robustness.distortion import distortion
from tests.robustness.scenario import Load

pytestmark = pytest.mark.timeout(300)

START_S, FAIL_S, RECOVERY_S = 40.0, 40.0, 20.0
BLOCK = bytes(64 * 1024)


@contextmanager
def full(directory: Path, spare_mb: int = 0) -> Iterator[None]:
    """Not a byte is free on the disk that the directory lies on, or but a few megabytes."""
    ballast = directory / f"ballast-{spare_mb}"
    try:
        with ballast.open("wb", buffering=0) as file:
            for size in (len(BLOCK), 512, 1):
                while shutil.disk_usage(directory).free > spare_mb << 20 and _wrote(file.fileno(), BLOCK[:size]):
                    pass
        yield
    finally:
        ballast.unlink()


def _wrote(file: int, content: bytes) -> bool:
    try:
        return os.write(file, content) == len(content)
    except OSError as error:
        assert error.errno == errno.ENOSPC
        return False


async def test_f29_on_a_full_disk_a_deployment_fails_with_its_reason_and_nothing_else_does(
    scenarios: Scenarios,
) -> None:
    async with scenarios("f29-node") as now:
        agent = now.cluster.nodes[-1]
        home = now.cluster.home.node(agent.name)
        with full(home, spare_mb=4):
            deployment_id = await now.deploy("f29-model", agent.name, tiny_model(rows=200_000))
            await now.until("it to fail", partial(now.has_status, deployment_id, "failed"), FAIL_S)
            assert "DISK_FULL" in str((await now.deployment(deployment_id))["errorMessage"])
        with full(home):
            engines = await now.engines(agent.name)
            await now.start(agent)
            await now.until("the node to be back", partial(now.node_is, agent.name, "online"), START_S)
            assert await now.engines(agent.name) == engines
            elsewhere = await now.deploy("f29-elsewhere")
            await now.until("one with a free choice to run", partial(now.has_status, elsewhere, "running"), START_S)
            assert (await now.deployment(elsewhere))["nodeId"] != now.node_row(agent.name)["node_id"]
        await now.stop(deployment_id)
        await now.until("the disk to have room", lambda: now.node_row(agent.name)["disk_free"] > 0, START_S)
        again = await now.deploy("f29-again", agent.name)
        await now.until("a new one to run", partial(now.has_status, again, "running"), START_S)


async def test_f29_a_database_on_a_full_disk_loses_nothing_that_it_acknowledged(scenarios: Scenarios) -> None:
    async with scenarios("f29-database", load=Load(importers=1)) as now:
        await now.go_on(2)
        with full(now.cluster.postgres.data):
            await now.go_on(5)
        await now.revive(now.cluster.members["postgres"])
        await now.until("a write to succeed", now.one_more_acknowledged(), RECOVERY_S)


async def test_f30_an_agent_whose_disk_fails_to_sync_serves_on_and_says_so(scenarios: Scenarios) -> None:
    async with scenarios("f30", load=Load(deployers=4)) as now:
        agent = now.choose(now.cluster.nodes)
        twisted = distortion(now.cluster.directory, agent.name)
        engines = await now.engines(agent.name)
        await now.start(agent, **twisted.environment)
        twisted.set(fsync_ms=300)
        await now.go_on(3)
        twisted.set(fsync_errno=errno.EIO)
        await now.deploy("f30-model", agent.name)
        await now.until("the agent to say so", lambda: "cannot write the journal" in agent.tail(400), START_S)
        await now.go_on(2)
        assert set(await now.engines(agent.name)) >= set(engines)


async def test_f31_a_journal_and_a_model_that_were_flipped_are_set_aside_and_never_used(scenarios: Scenarios) -> None:
    async with scenarios("f31") as now:
        agent = now.choose(now.cluster.nodes)
        home = now.cluster.home.node(agent.name)
        deployment_id = await now.deploy("f31-model", agent.name)
        await now.until("it to run", partial(now.has_status, deployment_id, "running"), START_S)
        engines = await now.engines(agent.name) | await now.engines(agent.name, "f31-model")
        agent.kill()
        flip(home / "journal.json")
        blobs = sorted((home / "cache" / "blobs").iterdir())
        for blob in blobs:
            flip(blob)
        await now.start(agent)
        await now.until("the node to be back", partial(now.node_is, agent.name, "online"), START_S)
        assert (home / "journal.broken").exists()
        assert await now.engines(agent.name) | await now.engines(agent.name, "f31-model") == engines
        again = await now.deploy("f31-again", agent.name)
        await now.until("the next one to run", partial(now.has_status, again, "running"), START_S)
        assert list((home / "cache" / "quarantine").iterdir())


def flip(file: Path) -> None:
    """One bit of the file is another."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
