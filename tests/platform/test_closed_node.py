"""A machine that nobody can dial joins by one command and serves, whatever is killed."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from node_agent.runtime.process import marked_processes
from stack.demo.platform import demo_model
from stack.ports import free_port
from tests.fakes.eventually import eventually
from tests.fixtures.machines import Machine
from tests.fixtures.node_agent import fake_engine
from tests.fixtures.platform import Platform, running_platform
from tests.platform.served import deploy, fetched, question, running

pytestmark = pytest.mark.timeout(240)

MODEL = "closed-demo"
# Three seconds on a machine of its own; tests share theirs.
BACK_WITHIN_S = 5.0
# Nobody can tell whether a request on a connection that breaks has reached an engine: one may fail for each of the
# gateway's workers.
ON_THEIR_WAY = 2


@dataclass
class ClosedNode:
    """A platform with one node of its own, and a closed machine whose agent `aiops node join` runs."""

    platform: Platform
    machine: Machine
    home: Path
    agents: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def join(self, token: str) -> None:
        """What a user types on the machine."""
        command = self.machine.command(sys.executable, "-m", "cli.main", "node", "join", token)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIOPS_")},
            "AIOPS_NODE_HOME": str(self.home),
            "AIOPS_ENGINE_TRANSFORMERS": self.platform.environment["AIOPS_ENGINE_TRANSFORMERS"],
        }
        with self.log.open("ab") as log:
            self.agents.append(
                subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    @property
    def log(self) -> Path:
        return self.home.parent / "far.log"

    @property
    def envoy(self) -> int:
        """The process of the node's Envoy."""
        (marked,) = marked_processes(f"{self.home}!tunnel")
        return marked.instance.pid

    def end(self) -> None:
        for agent in self.agents:
            agent.kill()
            agent.wait()
        for marked in (*marked_processes(f"{self.home}!"), *marked_processes(f"{self.home}#")):
            os.kill(marked.instance.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def far(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClosedNode]:
    home = tmp_path_factory.mktemp("closed")
    engine, port = fake_engine(home), free_port()
    settings = {
        "AIOPS_ENGINE_TRANSFORMERS": str(engine),
        "AIOPS_NODE_PORT": str(port),
        "AIOPS_PUBLIC_NODE_ADDRESS": f"{machine.gateway_host}:{port}",
    }
    for platform in running_platform(settings):
        platform.start(nodes=1)
        node = ClosedNode(platform, machine, home / "far")
        try:
            yield node
        finally:
            node.end()
            sys.stderr.write(node.log.read_text())


def client(platform: Platform) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=platform.url, timeout=20, trust_env=False)


async def sign_in(rest: httpx.AsyncClient, platform: Platform) -> None:
    credentials = {"email": "admin@localhost", "password": platform.admin_password}
    token = (await rest.post("/auth/login", json=credentials)).json()["accessToken"]
    rest.headers["authorization"] = f"Bearer {token}"


async def chat(rest: httpx.AsyncClient, path: str = "/v1/chat/completions") -> int:
    try:
        return (await rest.post(path, json=question(MODEL))).status_code
    except httpx.TransportError:
        return 0


async def back(rest: httpx.AsyncClient, path: str) -> float:
    """How long it takes until the instance answers again."""
    began = time.monotonic()

    async def answers() -> bool:
        return await chat(rest, path) == 200

    await eventually(answers, 30)
    return time.monotonic() - began


async def test_a_closed_machine_joins_by_one_command_and_serves_whatever_is_killed(far: ClosedNode) -> None:
    platform = far.platform
    (command,) = platform.aiops("nodes", "join-token", "far").stdout.splitlines()
    assert command.startswith("aiops node join ")
    far.join(command.split()[-1])
    async with client(platform) as rest:
        await sign_in(rest, platform)
        nodes = await joined(rest)
        assert nodes["far"]["tunnel"]["version"].count(".") == 2
        assert "tunnel" not in nodes["node-1"]
        platform.aiops_json("models", "import", str(demo_model()), "--name", MODEL)
        made = {name: await deploy(rest, modelId=MODEL, nodeId=node["nodeId"]) for name, node in nodes.items()}
        replicas = {name: await running(rest, each["deploymentId"]) for name, each in made.items()}
        path = f"/models/{MODEL}/{replicas['far']['instanceId']}/v1/inference"
        await back(rest, path)
        await nobody_can_dial(far, int(replicas["far"]["port"]))
        await both_answer(rest, far)
        await killing_its_envoy_is_mended(rest, far, path)
        await killing_the_agent_cuts_nothing(rest, far, path)
        await killing_the_gateways_envoy_is_mended(rest, far, path)


async def joined(rest: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    nodes: dict[str, dict[str, Any]] = {}

    async def are_there() -> bool:
        nodes.update({node["name"]: node for node in (await fetched(rest, "/nodes"))["nodes"]})
        states = {name: node["status"] for name, node in nodes.items()}
        tunnel = nodes.get("far", {}).get("tunnel", {}).get("state")
        return states == {"node-1": "online", "far": "online"} and tunnel == "connected"

    await eventually(are_there, 60)
    return nodes


async def nobody_can_dial(far: ClosedNode, port: int) -> None:
    with pytest.raises(OSError, match=r"timed out|refused|unreachable"):
        await asyncio.to_thread(socket.create_connection, (far.machine.address, port), 0.5)


async def both_answer(rest: httpx.AsyncClient, far: ClosedNode) -> None:
    """Requests for the model reach the node that can be dialled and the one behind its tunnel."""
    logs = {"far": far.home / "runs", "near": far.platform.home.node("node-1") / "runs"}
    before = {name: answered(directory) for name, directory in logs.items()}
    assert {await chat(rest) for _ in range(40)} == {200}
    assert all(answered(directory) >= before[name] + 8 for name, directory in logs.items())


def answered(directory: Path) -> int:
    return sum(path.read_text().count("POST /v1/chat/completions") for path in directory.rglob("*.log"))


async def killing_its_envoy_is_mended(rest: httpx.AsyncClient, far: ClosedNode, path: str) -> None:
    killed = far.envoy
    os.kill(killed, signal.SIGKILL)
    answers = [await chat(rest) for _ in range(20)]
    assert answers.count(200) >= len(answers) - ON_THEIR_WAY
    assert await back(rest, path) < BACK_WITHIN_S
    assert far.envoy != killed


async def killing_the_agent_cuts_nothing(rest: httpx.AsyncClient, far: ClosedNode, path: str) -> None:
    envoy = far.envoy
    far.agents[-1].kill()
    far.agents[-1].wait()
    assert {await chat(rest, path) for _ in range(20)} == {200}
    token = far.platform.aiops_json("nodes", "join-token", "far")["joinToken"]
    far.join(token)
    await eventually(lambda: said(far, "the node's Envoy goes on as process"), 30)
    assert "this machine has joined already" in far.log.read_text()
    assert far.envoy == envoy
    # On a busy machine the agent's lease may have run out meanwhile; then its node has to be heard again first.
    await back(rest, path)
    assert {await chat(rest, path) for _ in range(20)} == {200}


async def said(far: ClosedNode, text: str) -> bool:
    return text in far.log.read_text()


async def killing_the_gateways_envoy_is_mended(rest: httpx.AsyncClient, far: ClosedNode, path: str) -> None:
    killed = far.platform.state.service("envoy").pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    state = await asyncio.to_thread(far.platform.until, lambda it: restarted(it.service("envoy"), killed), 30)
    assert state.service("envoy").pid != killed
    assert await back(rest, path) < BACK_WITHIN_S


def restarted(envoy: Any, killed: int) -> bool:
    return bool(envoy.state == "healthy" and envoy.pid != killed)
