"""Tunnels come back by themselves, and meanwhile requests go where they can be answered."""

import asyncio
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mesh.clock import SystemClock
from mesh.names import JOIN_NAME
from node_agent.runtime.process import ProcessRuntime
from node_agent.tunnel.model import Ends
from node_agent.tunnel.program import find_envoy
from node_agent.tunnel.service import Tunnel
from stack.ports import free_port
from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.eventually import eventually
from tests.fixtures.edge import Edge, model_route, running_edge
from tests.fixtures.tunnels import TunnelledNode, envoys, running_tunnel, tunnelled

# Three seconds on a machine of its own; tests share theirs.
BACK_WITHIN_S = 5.0
# Nobody can tell whether a request on a connection that breaks has reached an engine: one may fail for each of the
# gateway's workers.
ON_THEIR_WAY = 2


@dataclass(slots=True)
class Site:
    """An edge of the test's own with a node behind a tunnel, and an engine that can be dialled."""

    edge: Edge
    gateway: str
    node: TunnelledNode
    near: Engine


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    port = free_port()
    async with (
        running_edge(tmp_path, {"AIOPS_NODE_PORT": str(port)}) as edge,
        running_engine("near") as near,
        running_engine("far") as far,
        running_tunnel(tmp_path / "node", tmp_path / "pki", "node-far", f"127.0.0.1:{port}") as node,
    ):
        near.release.set()
        far.release.set()
        node.lead_to(far)
        await edge.route(
            tunnelled("away", [node.target(far)]), tunnelled("mixed", [*model_route(near).targets, node.target(far)])
        )
        await edge.until_chat(200, "away", seconds=20)
        await edge.until_chat(200, "mixed")
        yield Site(edge, f"127.0.0.1:{port}", node, near)


async def test_a_killed_envoy_of_the_node_is_back_at_once_and_costs_no_more_than_what_was_on_its_way(
    site: Site,
) -> None:
    for _ in range(2):
        (killed,) = envoys(site.node.home)
        os.kill(killed, signal.SIGKILL)
        answers = [(await site.edge.chat("mixed")).status_code for _ in range(30)]
        assert answers.count(200) >= len(answers) - ON_THEIR_WAY
        assert await site.edge.until_chat(200, "away") < BACK_WITHIN_S
        assert envoys(site.node.home) != {killed}


async def test_a_killed_envoy_of_the_gateway_gets_its_tunnels_back(site: Site) -> None:
    await site.edge.restart_envoy()
    began = time.monotonic()
    await site.edge.until(lambda: answers(site.edge), seconds=10)
    assert time.monotonic() - began < BACK_WITHIN_S
    # Every worker has tunnels of its own: no request finds none.
    assert [(await site.edge.chat("away")).status_code for _ in range(20)] == [200] * 20


async def answers(edge: Edge) -> bool:
    try:
        return (await edge.chat("away")).status_code == 200
    except edge.connection_errors:
        return False


async def test_an_agent_that_comes_back_takes_up_the_envoy_that_runs_and_ends_one_that_is_out_of_date(
    site: Site,
) -> None:
    home, before = site.node.home, envoys(site.node.home)
    ends = Ends(site.node.node_id, site.gateway)

    def successor(connections: int) -> Tunnel:
        wanted = Ends(ends.node_id, ends.gateway_address, connections=connections)
        return Tunnel(home, wanted, find_envoy(None), ProcessRuntime(), lambda: site.node.engines, SystemClock())

    same, other = successor(ends.connections), successor(ends.connections + 1)
    await same.adopt()
    assert (same.runs, envoys(home)) == (True, before)
    await other.adopt()
    assert other.runs is False


async def test_sessions_pass_through_to_whichever_controller_is_there(tmp_path: Path) -> None:
    """Two of the three addresses are nobody's; the nodes' port finds the one that answers."""
    port, gone, gone_too = free_port(), free_port(), free_port()
    async with running_edge(tmp_path, {"AIOPS_NODE_PORT": str(port)}) as edge:
        await edge.stop_gateway()
        edge.settings["AIOPS_CONTROLLER_JOIN"] = f"127.0.0.1:{gone},127.0.0.1:{gone_too},{edge.plane.controller_mesh}"
        await edge.start_gateway()
        context = ssl.create_default_context(cafile=str(tmp_path / "pki" / "ca.crt"))
        context.check_hostname = False

        async def answers_for_the_controller() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=JOIN_NAME)
            except (OSError, ssl.SSLError):
                return False
            certificate = writer.get_extra_info("peercert")
            writer.close()
            return ("URI", "spiffe://aiops/service/controller") in certificate["subjectAltName"]

        await eventually(answers_for_the_controller)
        for _ in range(6):
            assert await answers_for_the_controller()
