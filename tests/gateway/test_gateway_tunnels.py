"""Engines behind tunnels: requests reach them as they reach others, and nobody gets what is not theirs."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from stack.ports import free_port
from tests.fakes.engine_http import Engine, running_engine
from tests.fixtures.edge import Edge, model_route, running_edge
from tests.fixtures.tunnels import TunnelledNode, running_tunnel, tunnelled

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(slots=True)
class Site:
    """An edge, and a node behind a tunnel with two engines; one more engine can be dialled."""

    edge: Edge
    gateway: str
    node: TunnelledNode
    near: Engine
    far: Engine
    farther: Engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    home, port = tmp_path_factory.mktemp("edge"), free_port()
    async with (
        running_edge(home, {"AIOPS_NODE_PORT": str(port)}) as edge,
        running_engine("near") as near,
        running_engine("far") as far,
        running_engine("farther") as farther,
        running_tunnel(home / "node", home / "pki", "node-far", f"127.0.0.1:{port}") as node,
    ):
        for engine in (near, far, farther):
            engine.release.set()
        node.lead_to(far, farther)
        mixed = [*model_route(near).targets, node.target(far)]
        await edge.route(
            tunnelled("away", [node.target(far)]),
            tunnelled("mixed", mixed),
            tunnelled("both", [node.target(far), node.target(farther)]),
        )
        await edge.until_chat(200, "away", seconds=20)
        await edge.until_chat(200, "mixed")
        yield Site(edge, f"127.0.0.1:{port}", node, near, far, farther)


async def test_a_chat_reaches_an_engine_that_nobody_can_dial(site: Site) -> None:
    response = await site.edge.chat("away", "hello")
    assert (response.status_code, response.json()["choices"][0]["message"]["content"]) == (200, "far: hello")


async def test_requests_spread_over_replicas_behind_a_tunnel_and_others(site: Site) -> None:
    served = [(await site.edge.chat("mixed")).json()["served_by"] for _ in range(60)]
    assert 15 <= served.count("near") <= 45
    assert {(await site.edge.chat("both")).json()["served_by"] for _ in range(20)} == {"far", "farther"}
