"""Engines behind tunnels: requests reach them as they reach others, and nobody gets what is not theirs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from aiops.inference.v1 import inference_service_pb2 as pb
from aiops.inference.v1 import inference_service_pb2_grpc
from aiops.routing.v1 import routing_service_pb2 as routing

from node_agent.tunnel import config
from node_agent.tunnel.model import Engine as Reachable
from node_agent.tunnel.model import State
from stack.ports import free_port
from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.eventually import eventually
from tests.fixtures.edge import Edge, model_route, running_edge
from tests.fixtures.tunnels import (
    TunnelledNode,
    certify,
    enrol,
    envoys,
    listening_in,
    running_tunnel,
    statistic,
    tunnelled,
)

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


async def more_than(edge: Edge, name: str, least: int) -> bool:
    return await edge.stat(name) > least


async def unknown_to_the_node(edge: Edge, model: str) -> bool:
    response = await edge.chat(model)
    return response.status_code == 404 and "this node runs no such replica" in response.text


async def connected(node: TunnelledNode) -> bool:
    return node.tunnel.report.state is State.CONNECTED


async def rotated(home: Path, times: int) -> bool:
    """Whether Envoy has taken so many new certificates, each in the place of one before."""
    return await statistic(home, "cluster.gateway.client_ssl_socket_factory.ssl_context_update_by_sds") >= 2 + times


def as_node(node_id: str, target: routing.Target) -> routing.Target:
    named = routing.Target()
    named.CopyFrom(target)
    named.node_id = node_id
    return named


def named(target: routing.Target, name: str = "localhost") -> routing.Target:
    """The same on a node that is reached by its name."""
    by_name = routing.Target()
    by_name.CopyFrom(target)
    by_name.address = name
    return by_name


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
            tunnelled("named", [named(model_route(near).targets[0]), node.target(far)]),
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


async def test_a_node_that_is_dialled_by_its_name_serves_beside_one_behind_a_tunnel(site: Site) -> None:
    served = set[str]()

    async def both() -> bool:
        answer = await site.edge.chat("named")
        served.add(answer.json().get("served_by", ""))
        return {"near", "far"} <= served

    await site.edge.until(both, seconds=20)


async def test_answers_stream_as_they_come(site: Site) -> None:
    site.far.release.clear()
    body = {"model": "away", "messages": [{"role": "user", "content": "one two"}], "stream": True}
    try:
        async with site.edge.client.stream(
            "POST", "/v1/chat/completions", json=body, headers=site.edge.bearer()
        ) as response:
            lines = response.aiter_lines()
            assert '"one"' in await anext(lines)
            site.far.release.set()
            rest = [line async for line in lines]
        assert rest[-2:] == ["data: [DONE]", ""]
    finally:
        site.far.release.set()


async def test_a_chat_over_grpc_and_a_large_body_pass(site: Site) -> None:
    request = pb.ChatRequest(model="away", messages=[pb.ChatMessage(role="user", content="x" * 700_000)])
    metadata = [("authorization", f"Bearer {site.edge.issuer.token()}")]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{site.edge.port}") as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        answer = await stub.Chat(request, metadata=metadata, timeout=10)
    assert answer.choices[0].message.content.startswith("far: x")
    assert len(site.far.seen[-1].body) > 700_000


async def test_an_instance_is_reached_by_its_path(site: Site) -> None:
    answer = await site.edge.client.post(
        "/models/both/farther/v2/models/m/infer", json={"messages": []}, headers=site.edge.bearer()
    )
    assert (answer.status_code, answer.json()["served_by"]) == (200, "farther")
    assert site.farther.seen[-1].path == "/v2/models/m/infer"


async def test_no_client_chooses_where_a_tunnel_leads_and_no_engine_sees_how_it_was_reached(site: Site) -> None:
    wanted = f"{site.node.node_id}/{site.farther.name}/{site.farther.port}"
    response = await site.edge.chat("away", headers={**site.edge.bearer(), "x-aiops-replica": wanted})
    assert response.json()["served_by"] == "far"
    assert not [name for name in site.far.seen[-1].headers if name.startswith("x-aiops-replica")]


async def test_a_port_that_is_no_workloads_cannot_be_reached(site: Site) -> None:
    async with running_engine("hidden") as hidden:
        await site.edge.route(
            tunnelled("away", [site.node.target(site.far)]), tunnelled("h", [site.node.target(hidden)])
        )
        await eventually(lambda: unknown_to_the_node(site.edge, "h"))
        site.node.lead_to(site.far, site.farther, hidden)
        await site.edge.until_chat(200, "h")
        site.node.lead_to(site.far, site.farther)
        await eventually(lambda: unknown_to_the_node(site.edge, "h"))
        seen = len(hidden.seen)
        await site.edge.chat("h")
        assert len(hidden.seen) == seen


async def test_beside_tunnels_a_host_name_that_means_nothing_gets_no_requests_and_that_is_said(site: Site) -> None:
    nowhere = named(model_route(site.near).targets[0], "no-such-host.invalid")
    await site.edge.route(tunnelled("nowhere", [nowhere, site.node.target(site.far)]))
    await site.edge.until_chat(200, "nowhere", seconds=20)
    assert {(await site.edge.chat("nowhere")).json()["served_by"] for _ in range(20)} == {"far"}
    assert "instance near of nowhere gets no requests" in (site.edge.home / "gateway.log").read_text()


async def test_a_node_cannot_announce_another(site: Site, tmp_path: Path) -> None:
    refused = await site.edge.stat("reverse_tunnel.handshake.validation_failed")
    pki = site.edge.home / "pki"
    async with running_tunnel(tmp_path / "b", pki, "node-b", site.gateway, announced="node-c") as impostor:
        await site.edge.route(tunnelled("c", [as_node("node-c", impostor.target(site.farther))]))
        impostor.lead_to(site.farther)
        await eventually(lambda: more_than(site.edge, "reverse_tunnel.handshake.validation_failed", refused + 3))
        assert (await site.edge.chat("c")).status_code == 503
        assert impostor.tunnel.report.connections == 0


async def test_a_group_by_another_nodes_name_gets_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = await site.edge.stat("reverse_tunnel.handshake.validation_failed")
    monkeypatch.setattr(config, "GROUP", f"CN={site.node.node_id}")
    async with running_tunnel(tmp_path / "b", site.edge.home / "pki", "node-b", site.gateway):
        await eventually(lambda: more_than(site.edge, "reverse_tunnel.handshake.validation_failed", refused + 3))


async def test_a_certificate_of_another_authority_is_refused(site: Site, tmp_path: Path) -> None:
    failures = f"listener.127.0.0.1_{site.gateway.rpartition(':')[2]}.ssl.fail_verify_error"
    async with running_tunnel(tmp_path / "b", site.edge.home / "pki", "node-b", site.gateway) as stranger:
        await eventually(lambda: connected(stranger))
        before = await site.edge.stat(failures)
        authority = (stranger.home / "ca.crt").read_bytes()
        enrol(tmp_path / "other-pki", stranger.home, "node-b")
        (stranger.home / "ca.crt").write_bytes(authority)
        await stranger.tunnel.stop()
        await eventually(lambda: more_than(site.edge, failures, before + 1))
        assert not await connected(stranger)


async def test_what_a_tunnel_carries_is_encrypted(site: Site, tmp_path: Path) -> None:
    heard: list[bytes] = []
    async with (
        listening_in(site.gateway, heard) as between,
        running_tunnel(tmp_path / "b", site.edge.home / "pki", "node-b", between) as node,
    ):
        node.lead_to(site.farther)
        await site.edge.route(tunnelled("b", [node.target(site.farther)]))
        await site.edge.until_chat(200, "b", seconds=10)
        await site.edge.chat("b", "a word that nobody may hear")
        assert b"a word" in site.farther.seen[-1].body
    everything = b"".join(heard)
    assert b"tunnel.aiops" in everything
    assert b"a word" not in everything
    assert b"chat/completions" not in everything


async def test_a_new_certificate_is_taken_without_a_restart(site: Site, tmp_path: Path) -> None:
    pki, home = site.edge.home / "pki", tmp_path / "b"
    async with running_tunnel(home, pki, "node-b", site.gateway) as node:
        node.lead_to(site.farther)
        await site.edge.route(tunnelled("b", [node.target(site.farther)]))
        await site.edge.until_chat(200, "b", seconds=10)
        before = envoys(home)
        for expected in (1, 2):
            certify(pki, home, "node-b")
            await eventually(lambda: rotated(home, expected))  # noqa: B023 - asked at once
        assert (await site.edge.chat("b")).status_code == 200
        assert envoys(home) == before


@asynccontextmanager
async def inference_server(answer: bytes) -> AsyncIterator[int]:
    """A gRPC server that answers every call of the Open Inference Protocol the same; its port."""

    async def infer(request: bytes, context: object) -> bytes:
        return answer

    server = grpc.aio.server()
    methods: dict[str, Any] = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


async def test_the_open_inference_protocol_passes_over_grpc(site: Site) -> None:
    async with inference_server(b"\x0a\x01m") as port:
        target = site.node.target(site.far)
        target.grpc_port = port
        site.node.engines.add(Reachable(site.far.name, port, grpc=True))
        site.node.tunnel.wake.set()
        await site.edge.route(tunnelled("m", [target]))
        await site.edge.until_chat(200, "m")
        metadata = [("authorization", f"Bearer {site.edge.issuer.token()}")]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{site.edge.port}") as channel:
            infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            # A ModelInferRequest whose model_name is "m".
            assert await infer(b"\x0a\x01m", metadata=metadata, timeout=10) == b"\x0a\x01m"
