"""`aiops up` on the real thing: order, restarts, a second start, a stop that leaves nothing."""

import os
import signal
import socket

import psutil
import pytest

from stack.memory import tree_mb
from stack.processes import descendants, running_below
from stack.service import State
from tests.fixtures.platform import Platform

SERVICES = ["postgres", "broker", "controller", "inference_router", "gateway", "realtime", "envoy", "node-1", "node-2"]


def remains(platform: Platform) -> list[str]:
    """What a stopped platform has left: processes, sockets, a listener."""
    strays = [str(stray.pid) for place in platform.home.work_directories for stray in running_below(place)]
    sockets = [str(path) for path in platform.home.root.rglob("*") if path.is_socket()]
    with socket.socket() as probe:
        listens = probe.connect_ex(("127.0.0.1", int(platform.environment["AIOPS_PORT"]))) == 0
    return [*strays, *sockets, *(["listener"] if listens else [])]


@pytest.mark.parametrize("name", SERVICES)
def test_a_killed_service_is_running_again_soon(platform: Platform, name: str) -> None:
    before = platform.until(lambda state: all(report.state != State.RESTARTING for report in state.services))
    killed = before.service(name)
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    after = platform.until(
        lambda state: state.service(name).state == State.HEALTHY and state.service(name).pid != killed.pid, 30
    )
    assert after.service(name).restarts == killed.restarts + 1
    assert platform.aiops("nodes", "ls").returncode == 0


def test_every_service_says_where_it_is(platform: Platform) -> None:
    lines = platform.home.log("up").read_text()
    for name in SERVICES:
        assert f"{name:<18} healthy" in lines
        assert platform.home.log(name).exists()
    assert f"aiops is ready at {platform.url}" in lines


def test_the_idle_platform_is_small(new_platform: Platform) -> None:
    # One of its own: engines of other tests may run in the shared one.
    new_platform.start(nodes=2)
    assert new_platform.process is not None
    assert tree_mb(new_platform.process.pid) < 600


def test_a_second_up_says_who_is_first(platform: Platform) -> None:
    assert platform.process is not None
    second = platform.aiops("up")
    assert second.returncode == 6
    assert f"already running in {platform.home.root} (pid {platform.process.pid}, {platform.url})" in second.stderr


def test_a_taken_port_is_named_with_its_holder(new_platform: Platform) -> None:
    with socket.create_server(("127.0.0.1", int(new_platform.environment["AIOPS_PORT"]))) as server:
        port = server.getsockname()[1]
        done = new_platform.aiops("up")
    assert done.returncode == 6
    assert f"port {port} is taken by" in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    assert "AIOPS_PORT" in done.stderr


def test_rows_survive_and_nothing_is_left_after_the_stop(new_platform: Platform) -> None:
    new_platform.start(nodes=1)
    assert new_platform.process is not None
    before = new_platform.aiops_json("nodes", "ls")
    processes = descendants(new_platform.process.pid)
    assert new_platform.stop() == 0
    assert remains(new_platform) == []
    assert not [process for process in processes if process.alive]
    new_platform.start(nodes=1)
    after = new_platform.aiops_json("nodes", "ls")
    assert [node["nodeId"] for node in after] == [node["nodeId"] for node in before]
    assert new_platform.stop(signal.SIGINT) == 0
    assert remains(new_platform) == []


def test_after_a_killed_supervisor_the_next_up_ends_what_it_left(new_platform: Platform) -> None:
    new_platform.start(nodes=1)
    assert new_platform.process is not None
    left = descendants(new_platform.process.pid)
    assert new_platform.stop(signal.SIGKILL) == -signal.SIGKILL
    assert any(process.alive for process in left)
    new_platform.start(nodes=1)
    assert not [process for process in left if process.alive]
    assert "that an earlier aiops left" in new_platform.home.log("up").read_text()
    assert new_platform.stop() == 0


def test_it_listens_on_loopback_only(platform: Platform) -> None:
    assert platform.process is not None
    pids = {process.pid for process in descendants(platform.process.pid)}
    listening = [each for each in psutil.net_connections("inet") if each.pid in pids and each.status == "LISTEN"]
    assert listening
    assert {each.laddr.ip.removeprefix("::ffff:") for each in listening if each.laddr} == {"127.0.0.1"}
