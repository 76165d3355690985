"""Joining with a one-use token, and keeping the certificate fresh."""

import asyncio
import base64
import json
import socket
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mesh.pki import SpiffeId, ensure_authority, identity_of
from mesh.rpc.addresses import Addresses
from node_agent.enrollment.identity import Identity, IdentityStore
from node_agent.enrollment.renewal import Renewal
from node_agent.enrollment.request import certificate_request, new_key
from node_agent.enrollment.unit import NoSystemdError, install, unit
from node_agent.settings import AgentSettings
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


@pytest.mark.parametrize("token", ["nonsense", base64.urlsafe_b64encode(b'{"secret": "x"}').decode()])
async def test_what_is_no_token_is_said_to_be_none(fresh: AgentProcess, controller: FakeController, token: str) -> None:
    code, output = await fresh.run("join", "--controller", controller.join_url, "--token", token)
    assert (code != 0, "no join token" in output) == (True, True)


async def test_a_controller_that_is_not_there_is_named(fresh: AgentProcess, controller: FakeController) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = ("join", "--controller", f"https://127.0.0.1:{port}", "--token", controller.join_token)
    code, output = await fresh.run(*arguments)
    assert (code != 0, f"127.0.0.1:{port}" in output) == (True, True)


async def test_a_port_where_something_else_answers_is_told_from_one_where_nobody_does(
    fresh: AgentProcess, controller: FakeController
) -> None:

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as other:
        address = f"127.0.0.1:{other.sockets[0].getsockname()[1]}"
        arguments = ("join", "--controller", address, controller.join_token)
        code, output = await fresh.run(*arguments)
        assert (code != 0, "not the controller that this token vouches for" in output) == (True, True), output
    code, output = await fresh.run(*arguments)
    assert (code != 0, "nobody listens" in output, "AIOPS_NODE_PORT" in output) == (True, True, True), output
    code, output = await fresh.run("join", "--controller", "no.such.name.invalid:1", controller.join_token)
    assert (code != 0, "cannot be looked up" in output) == (True, True)


def token_made(controller: FakeController, ago: timedelta) -> str:
    """A token that says where to join and when it was made."""
    made = time.time() - ago.total_seconds()
    content = json.loads(base64.urlsafe_b64decode(controller.join_token))
    content |= {"url": controller.join_url, "made": int(made), "until": int(made + 900)}
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


async def test_a_token_alone_is_enough_and_one_that_ran_out_is_not_even_tried(
    fresh: AgentProcess, controller: FakeController
) -> None:
    joins = controller.joins
    code, output = await fresh.run("join", token_made(controller, timedelta(minutes=20)))
    assert (code != 0, "ran out" in output, "join-token" in output) == (True, True, True)
    code, output = await fresh.run("join", token_made(controller, timedelta(minutes=-20)))
    assert (code != 0, "clock is about 20 minutes behind" in output) == (True, True)
    assert controller.joins == joins
    code, output = await fresh.run("join", token_made(controller, timedelta()))
    assert (code, "joined as node node-1" in output) == (0, True)


async def test_a_machine_that_has_joined_needs_no_token(fresh: AgentProcess, controller: FakeController) -> None:
    code, output = await fresh.run("join")
    assert (code != 0, "aiops nodes join-token NAME" in output) == (True, True)
    await fresh.run("join", token_made(controller, timedelta()))
    assert (await fresh.run("join"))[0] == 0


async def test_joining_goes_on_to_run_the_agent(fresh: AgentProcess, controller: FakeController) -> None:
    for times in (1, 2):
        await fresh.start("join", "--run", token_made(controller, timedelta()))
        try:
            await controller.until(lambda it: len(it.hellos) == times)  # noqa: B023 - asked at once
        finally:
            assert await fresh.end() == 0
    assert "has joined already" in fresh.logged()


def test_systemd_is_given_what_the_agent_needs_and_no_secret(tmp_path: Path) -> None:
    environment = {"AIOPS_NODE_NAME": 'a "b" 100%', "AIOPS_API_KEY": "secret", "PATH": "/bin", "HOME": "/root"}
    text = unit(tmp_path / "node", environment)
    assert 'Environment="AIOPS_NODE_NAME=a \\"b\\" 100%%"' in text
    assert f'Environment="AIOPS_NODE_HOME={tmp_path}/node"' in text
    assert "KillMode=process" in text
    assert ("secret" in text, "HOME=/root" in text) == (False, False)


def test_without_systemd_it_says_what_to_start_instead(tmp_path: Path) -> None:
    with pytest.raises(NoSystemdError, match="aiops node-agent"):
        install(AgentSettings(home=tmp_path, name="n"), tmp_path / "none")


async def test_an_agent_that_never_joined_says_how_to(fresh: AgentProcess) -> None:
    code, output = await fresh.run()
    assert (code != 0, "aiops node join TOKEN" in output) == (True, True)


async def test_a_certificate_is_renewed_at_half_of_its_life(fresh: AgentProcess, controller: FakeController) -> None:
    await fresh.run("join", "--controller", controller.join_url, "--token", controller.join_token)
    first, description = (fresh.home / "node.crt").read_bytes(), fresh.home / "node.json"
    # As if it had joined long ago: most of the certificate's life is over, and it does not end while this runs.
    issued_at = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    description.write_text(json.dumps(json.loads(description.read_text()) | {"issued_at": issued_at}))
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
    assert await Renewal(store, Addresses(nobody), clock).step() == pause
    assert store.load() == identity


async def test_a_join_whose_answer_was_lost_is_repeated_with_the_same_key(
    fresh: AgentProcess, controller: FakeController
) -> None:
    arguments = ("join", "--controller", controller.join_url, "--token", controller.join_token)
    await fresh.run(*arguments)
    # The controller has answered; nothing of it arrived.
    for name in ("node.json", "node.crt", "ca.crt"):
        (fresh.home / name).unlink()
    code, output = await fresh.run(*arguments)
    assert (code, "joined as node node-1" in output) == (0, True)
    assert len(controller.joined_with[-2:]) == 2
    assert len(set(controller.joined_with[-2:])) == 1
