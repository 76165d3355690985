"""Engines that fail: each failure is told with its reason, and never leaves anything behind."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from aiops.nodes.v1 import node_session_service_pb2 as pb

from tests.fakes.controller import FakeController
from tests.fixtures.node_agent import AgentProcess, StoredModel, store_model

Workload = Callable[..., pb.WorkloadSpec]
MIB = 1024 * 1024


@pytest.fixture
async def connected(agent: AgentProcess, controller: FakeController) -> FakeController:
    """The controller of an agent that runs, and gives up after two restarts."""
    agent.environment["AIOPS_NODE_RESTART_LIMIT"] = "2"
    await agent.start()
    await controller.until(lambda it: it.hellos)
    return controller


async def test_a_port_in_use_fails_naming_the_port_and_who_holds_it(
    connected: FakeController, workload: Workload
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        connected.want(workload(port=port))
        failed = await connected.until_status("dep-1", "failed")
    assert failed.error_reason == "PORT_IN_USE"
    assert str(port) in failed.error
    assert f"pid {os.getpid()}" in failed.error


async def test_a_wanted_port_is_taken(connected: FakeController, workload: Workload) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    connected.want(workload(port=port))
    assert (await connected.until_status("dep-1", "running")).port == port


async def test_a_crash_loop_ends_as_failed_with_the_end_of_the_log(
    agent: AgentProcess, connected: FakeController, workload: Workload
) -> None:
    words = "RuntimeError: " + "y" * 9000 + " the last straw"
    connected.want(workload(environment={"FAKE_ENGINE": "exit", "FAKE_EXIT_CODE": "9", "FAKE_LAST_WORDS": words}))
    failed = await connected.until_status("dep-1", "failed")
    deaths = [each for each in connected.statuses if each.event == "died"]
    assert len(deaths) == 3
    assert (failed.exit_code, failed.error_reason, failed.event) == (9, "ENGINE_FAILED", "died")
    assert failed.log_tail.endswith("the last straw\n")
    assert len(failed.log_tail.encode()) <= 8192
    assert not agent.engines()
    await agent.end(signal.SIGKILL)
    await agent.start()
    await connected.until(lambda it: len(it.hellos) == 2)
    [told] = connected.hellos[-1].workloads
    assert (told.state, told.log_tail) == (pb.WorkloadStatus.failed, failed.log_tail)


async def test_a_failed_workload_runs_again_under_a_new_epoch(connected: FakeController, workload: Workload) -> None:
    lost = {"FAKE_ENGINE": "exit", "FAKE_LAST_WORDS": "SafetensorError: error while deserializing header"}
    connected.want(workload(environment=lost))
    failed = await connected.until_status("dep-1", "failed")
    assert failed.error_reason == "NOT_A_MODEL"
    assert not [each for each in connected.statuses if each.event == "died" and each.state != pb.WorkloadStatus.failed]
    connected.want(workload(epoch=2))
    assert (await connected.until_status("dep-1", "running")).epoch == 2


async def test_an_engine_that_ends_for_lack_of_memory_is_told_apart(
    connected: FakeController, workload: Workload
) -> None:
    connected.want(workload(environment={"FAKE_ENGINE": "exit", "FAKE_LAST_WORDS": "MemoryError"}))
    failed = await connected.until_status("dep-1", "failed")
    assert (failed.event, failed.error_reason) == ("oom", "OUT_OF_MEMORY")


async def test_an_engine_that_dies_is_started_again_on_the_same_port(
    agent: AgentProcess, connected: FakeController, workload: Workload
) -> None:
    connected.want(workload())
    running = await connected.until_status("dep-1", "running")
    os.kill(int(running.container_id), signal.SIGSEGV)
    death = await connected.until_event("died")
    again = await connected.until_status("dep-1", "running", after=connected.statuses.index(death))
    assert (death.exit_code, death.state) == (128 + signal.SIGSEGV, pb.WorkloadStatus.starting)
    assert (again.port, again.container_id != running.container_id) == (running.port, True)
    assert again.container.restarts == 1


@pytest.mark.parametrize(
    ("mode", "progress", "missing"),
    [("unready", 60, "POST /v1/chat/completions answered 503"), ("silent", 10, "GET /health failed: ")],
)
async def test_an_engine_that_never_becomes_ready_is_ended_and_fails_after_its_time(
    agent: AgentProcess, controller: FakeController, workload: Workload, mode: str, progress: int, missing: str
) -> None:
    agent.environment["AIOPS_NODE_START_LIMIT_S"] = "1"
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.want(workload(environment={"FAKE_ENGINE": mode}))
    failed = await controller.until_status("dep-1", "failed")
    assert max(each.progress for each in controller.statuses if each.state == pb.WorkloadStatus.starting) == progress
    assert (failed.error_reason, "within 1 s" in failed.error) == ("ENGINE_FAILED", True)
    assert missing in failed.error
    assert "engine starts as demo" in failed.log_tail
    assert not agent.engines()


async def test_an_engine_that_ignores_sigterm_is_killed_with_its_children(
    agent: AgentProcess, connected: FakeController, workload: Workload
) -> None:
    agent.environment["AIOPS_NODE_STOP_GRACE_S"] = "1"
    await agent.end()
    await agent.start()
    await connected.until(lambda it: len(it.hellos) == 2)
    connected.want(workload(environment={"FAKE_ENGINE": "stubborn"}))
    running = await connected.until_status("dep-1", "running")
    children = psutil.Process(int(running.container_id)).children()
    assert children
    connected.want(workload(goal=pb.WorkloadSpec.end))
    stopped = await connected.until_status("dep-1", "stopped")
    assert stopped.exit_code == 128 + signal.SIGKILL
    psutil.wait_procs(children, timeout=5)
    assert not agent.engines()


async def test_draining_lets_a_running_answer_finish(
    agent: AgentProcess, connected: FakeController, workload: Workload
) -> None:
    connected.want(workload())
    running = await connected.until_status("dep-1", "running")
    connected.want(workload(goal=pb.WorkloadSpec.end, drain_seconds=1))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.port}") as client:
        assert (await client.get("/health")).status_code == 200
    await connected.until_status("dep-1", "stopped")
    assert not agent.engines()


async def test_an_end_while_starting_cuts_the_start_short(
    agent: AgentProcess, connected: FakeController, workload: Workload
) -> None:
    connected.want(workload(environment={"FAKE_ENGINE": "silent"}))
    await connected.until(lambda it: any(each.event == "started" for each in it.statuses))
    connected.want(workload(goal=pb.WorkloadSpec.end))
    await connected.until_status("dep-1", "stopped")
    assert not agent.engines()


async def test_an_engine_environment_that_is_still_being_installed_is_waited_for(
    agent: AgentProcess, controller: FakeController, workload: Workload, engine_program: Path
) -> None:
    later = engine_program.with_name("later")
    agent.environment["AIOPS_ENGINE_TRANSFORMERS"] = str(later)
    await agent.start()
    await controller.until(lambda it: it.hellos)
    assert controller.hellos[0].engines == ["transformers"]
    controller.want(workload())
    await controller.until_status("dep-1", "starting")
    later.symlink_to(engine_program)
    await controller.until_status("dep-1", "running")


async def test_a_model_that_no_engine_here_serves_fails_saying_what_there_is(
    connected: FakeController, workload: Workload
) -> None:
    connected.want(workload(framework="triton"))
    failed = await connected.until_status("dep-1", "failed")
    assert failed.error_reason == "ENGINE_UNAVAILABLE"
    assert "transformers" in failed.error


async def test_a_corrupt_model_file_fails_with_its_checksum(
    agent: AgentProcess, connected: FakeController, workload: Workload, model: StoredModel
) -> None:
    (model.directory / "model.safetensors").write_bytes(b"v" * 100_000)
    connected.want(workload())
    failed = await connected.until_status("dep-1", "failed")
    assert failed.error_reason == "CHECKSUM_MISMATCH"
    assert model.artifact.files[2].sha256 in failed.error
    assert not list((agent.home / "cache" / "partial").iterdir())


async def test_a_workload_with_an_unsafe_path_is_refused(
    agent: AgentProcess, connected: FakeController, workload: Workload, model: StoredModel
) -> None:
    evil = pb.ModelArtifact(url=model.artifact.url)
    evil.files.add(path="../../escaped", size_bytes=1, sha256="0" * 64)
    spec = workload()
    spec.artifact.CopyFrom(evil)
    connected.want(spec)
    failed = await connected.until_status("dep-1", "failed")
    assert failed.error_reason == "FILE_NOT_ALLOWED"
    connected.want(workload("../escaped"), workload("dep-2"))
    await connected.until_status("dep-2", "running")
    with contextlib.suppress(FileNotFoundError):
        assert not (agent.home / "escaped").exists()


async def test_a_full_disk_fails_naming_the_path_and_the_free_space(
    agent: AgentProcess, connected: FakeController, workload: Workload, small_disk: Path
) -> None:
    """The cache lies on a file system of two megabytes."""
    cache = agent.home / "cache"
    shutil.rmtree(cache)
    cache.symlink_to(small_disk)
    await agent.end()
    await agent.start()
    await connected.until(lambda it: len(it.hellos) == 2)
    large = store_model(agent.home.parent / "objects" / "large", weights=os.urandom(3 * 1024 * 1024))
    connected.want(workload(artifact=large.artifact), workload("dep-2"))
    failed = await connected.until_status("dep-1", "failed")
    assert failed.error_reason == "DISK_FULL"
    assert str(cache) in failed.error
    assert "MB are free" in failed.error
    await connected.until_status("dep-2", "running")
    assert not list((small_disk / "partial").iterdir())


async def test_an_engine_that_writes_without_end_fills_no_disk(
    agent: AgentProcess, connected: FakeController, workload: Workload
) -> None:
    connected.want(workload(environment={"FAKE_ENGINE": "noisy"}))
    await connected.until_status("dep-1", "running")
    log = agent.home / "runs" / "dep-1.0" / "engine.log"
    async with asyncio.timeout(30):
        await until(lambda: log.stat().st_size > 64 * MIB)
        connected.want(workload(goal=pb.WorkloadSpec.end))
        await connected.until_status("dep-1", "stopped")
    written, kept = log.stat().st_size, log.stat().st_blocks * 512
    assert written > 64 * MIB > 17 * MIB > kept
    page = await connected.read_log("dep-1", -3, 64 * 1024)
    assert (page.content.count(b"\n"), page.end, page.next_offset) == (3, True, written)


async def test_a_run_directory_that_cannot_be_made_fails_with_the_cause(
    agent: AgentProcess, connected: FakeController, workload: Workload
) -> None:
    in_the_way = agent.home / "runs" / "dep-1.0"
    in_the_way.write_text("a file")
    connected.want(workload())
    failed = await connected.until_status("dep-1", "failed")
    assert (failed.error_reason, f"cannot lay out {in_the_way}" in failed.error) == ("UNAVAILABLE", True)
    connected.want(workload(goal=pb.WorkloadSpec.end))
    await connected.until_status("dep-1", "stopped")


async def test_a_model_without_files_is_missing(connected: FakeController, workload: Workload) -> None:
    spec = workload()
    spec.ClearField("artifact")
    connected.want(spec)
    assert (await connected.until_status("dep-1", "failed")).error_reason == "MODEL_NOT_FOUND"


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that only the file system tells; whoever calls bounds the wait."""
    while True:
        if condition():
            return
        await asyncio.sleep(0.01)
