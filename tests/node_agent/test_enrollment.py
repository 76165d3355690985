"""Joining with a one-use token, and keeping the certificate fresh."""

import base64
import json
import socket
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from mesh.pki import SpiffeId, ensure_authority, identity_of
from node_agent.enrollment.identity import Identity, IdentityStore
from node_agent.enrollment.renewal import Renewal
from node_agent.enrollment.request import certificate_request, new_key
from tests.fakes.clock import ManualClock
from tests.fakes.controller import FakeController
from tests.fixtures.node_agent import AgentProcess


@pytest.fixture
def fresh(agent: AgentProcess, tmp_path: Path) -> AgentProcess:
    """An agent in a home that has never joined."""
    home = tmp_path / "fresh"
    return AgentProcess(home, agent.environment | {"AIOPS_NODE_HOME": str(home)}, tmp_path / "fresh.log")


def files(home: Path) -> set[str]:
    return {each.name for each in home.iterdir()} if home.exists() else set()


async def test_joining_keeps_a_private_key_a_certificate_and_where_to_go(
    fresh: AgentProcess, controller: FakeController
) -> None:
    code, output = await fresh.run("join", "--controller", controller.join_url, "--token", controller.join_token)
    assert (code, "joined as node node-1" in output) == (0, True)
    key = fresh.home / "node.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert b"PRIVATE KEY" in key.read_bytes()
    assert str(identity_of((fresh.home / "node.crt").read_bytes())) == "spiffe://aiops/node/node-1"
    assert json.loads((fresh.home / "node.json").read_text())["session_address"] == controller.address
    assert controller.join_token not in output


async def test_joining_twice_says_so_and_keeps_the_node(fresh: AgentProcess, controller: FakeController) -> None:
    arguments = ("join", "--controller", controller.join_url, "--token", controller.join_token)
    await fresh.run(*arguments)
    certificate = (fresh.home / "node.crt").read_bytes()
    code, output = await fresh.run(*arguments)
    assert (code, "has joined already" in output) == (0, True)
    assert (fresh.home / "node.crt").read_bytes() == certificate


async def test_a_home_of_another_mesh_is_not_taken_over(
    fresh: AgentProcess, controller: FakeController, tmp_path: Path
) -> None:
    await fresh.run("join", "--controller", controller.join_url, "--token", controller.join_token)
    other = FakeController(tmp_path / "other-pki")
    code, output = await fresh.run("join", "--controller", controller.join_url, "--token", other.join_token)
    assert (code != 0, "another mesh" in output) == (True, True)


async def test_a_token_that_was_used_is_refused_and_leaves_no_identity(
    fresh: AgentProcess, controller: FakeController
) -> None:
    content = json.loads(base64.urlsafe_b64decode(controller.join_token)) | {"secret": "used-up-already-0000"}
    used = base64.urlsafe_b64encode(json.dumps(content).encode()).decode()
    code, output = await fresh.run("join", "--controller", controller.join_url, "--token", used)
    assert (code != 0, "used already" in output) == (True, True)
    assert "node.json" not in files(fresh.home)


async def test_an_impostor_that_the_token_does_not_vouch_for_gets_no_secret(
    fresh: AgentProcess, controller: FakeController, tmp_path: Path
) -> None:
    other = FakeController(tmp_path / "other-pki")
    code, output = await fresh.run("join", "--controller", controller.join_url, "--token", other.join_token)
    assert (code != 0, "vouches" in output) == (True, True)
    assert controller.joins == 1  # the one of the agent's own fixture


@pytest.mark.parametrize("token", ["", "nonsense", base64.urlsafe_b64encode(b'{"secret": "x"}').decode()])
async def test_what_is_no_token_is_said_to_be_none(fresh: AgentProcess, controller: FakeController, token: str) -> None:
    code, output = await fresh.run("join", "--controller", controller.join_url, "--token", token)
    assert (code != 0, "no join token" in output) == (True, True)


async def test_a_controller_that_is_not_there_is_named(fresh: AgentProcess, controller: FakeController) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = ("join", "--controller", f"https://127.0.0.1:{port}", "--token", controller.join_token)
    code, output = await fresh.run(*arguments)
    assert (code != 0, f"127.0.0.1:{port}" in output) == (True, True)


async def test_an_agent_that_never_joined_says_how_to(fresh: AgentProcess) -> None:
    code, output = await fresh.run()
    assert (code != 0, "join --controller URL --token TOKEN" in output) == (True, True)


async def test_a_certificate_is_renewed_at_half_of_its_life(fresh: AgentProcess, controller: FakeController) -> None:
    controller.lifetime = timedelta(seconds=4)
    await fresh.run("join", "--controller", controller.join_url, "--token", controller.join_token)
    first = (fresh.home / "node.crt").read_bytes()
    controller.lifetime = timedelta(hours=1)
    await fresh.start()
    try:
        await controller.until(lambda it: it.renewals == 1)
        await fresh.until_logged("is renewed")
        assert (fresh.home / "node.crt").read_bytes() != first
        sessions = len(controller.hellos)
        await controller.restart()
        await controller.until(lambda it: len(it.hellos) > sessions)
    finally:
        await fresh.end()


@pytest.mark.parametrize(("age", "pause"), [(3, timedelta(minutes=10)), (13, None), (25, timedelta(minutes=10))])
async def test_a_renewal_waits_for_its_time_tries_while_it_can_and_gives_up_after_the_end(
    tmp_path: Path, age: int, pause: timedelta | None
) -> None:
    clock = ManualClock()
    store = IdentityStore(tmp_path)
    store.save_key(new_key())
    issued_at = clock.now() - timedelta(hours=age)
    authority = ensure_authority(tmp_path / "pki")
    key = certificate_request(store.key_pem() or b"")
    issued = authority.issue_from_request(key, SpiffeId("node", "node-1"), timedelta(hours=24))
    identity = Identity(
        "node-1", "", issued.pem.decode(), authority.pem.decode(), issued_at, issued_at + timedelta(hours=24)
    )
    store.save(identity)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        nobody = f"127.0.0.1:{probe.getsockname()[1]}"
    assert await Renewal(store, nobody, clock).step() == pause
    assert store.load() == identity
