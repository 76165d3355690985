"""Changes of the routing table under traffic: live and gone within a second, and nobody's request is dropped."""

import asyncio
from functools import partial

import pytest
from aiops.routing.v1 import routing_service_pb2 as routing

from tests.fakes.engine_http import running_engine
from tests.fixtures.edge import ORG, Edge, model_route

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_model_is_live_and_gone_within_a_second(edge: Edge) -> None:
    async with running_engine("a") as engine:
        await edge.route(model_route(engine))
        assert await edge.until_chat(200) < 1
        assert (
            await edge.client.post("/models/tiny/a/v1/inference", json={}, headers=edge.bearer())
        ).status_code == 200
        await edge.route()
        assert await edge.until_chat(404) < 1
        assert (
            await edge.client.post("/models/tiny/a/v1/inference", json={}, headers=edge.bearer())
        ).status_code == 404
        assert (await edge.client.get("/v1/models", headers=edge.bearer())).json()["data"] == []


async def test_replicas_come_and_go_under_load_without_a_failed_request(edge: Edge) -> None:
    async with running_engine("a") as a, running_engine("b") as b:
        await edge.route(model_route(a))
        await edge.until_chat(200)
        statuses: list[int] = []
        over = asyncio.Event()

        async def client() -> None:
            headers = edge.bearer()
            while not over.is_set():
                statuses.append((await edge.chat(headers=headers)).status_code)

        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(client()) for _ in range(4)]
            for targets in ((a, b), (b,), (a, b), (a,), (a, b)):
                await edge.route(model_route(*targets))
                wanted = len(statuses) + 60
                await edge.until(partial(reached, statuses, wanted), seconds=20)
            over.set()
        assert all(client.done() for client in clients)
        assert set(statuses) == {200}
        assert {seen.path for seen in a.seen} == {seen.path for seen in b.seen} == {"/v1/chat/completions"}


async def test_a_stream_outlives_its_route_and_its_cluster(edge: Edge) -> None:
    async with running_engine("a") as engine:
        await edge.route(model_route(engine))
        await edge.until_chat(200)
        body = {"model": "tiny", "messages": [{"content": "one two"}], "stream": True}
        async with edge.client.stream("POST", "/v1/chat/completions", json=body, headers=edge.bearer()) as response:
            lines = response.aiter_lines()
            await anext(lines)
            await edge.route()
            await edge.until_chat(404)
            # The cluster lingers for a second in these tests, then Envoy drops it while the stream is open.
            await edge.until(lambda: is_gone(edge, f"model/{ORG}/tiny"))
            engine.release.set()
            rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"


async def test_a_request_in_flight_at_a_replica_that_leaves_is_answered(edge: Edge) -> None:
    async with running_engine("a") as a, running_engine("b") as b:
        await edge.route(model_route(a))
        await edge.until_chat(200)
        a.arrived.clear()
        held = asyncio.ensure_future(edge.chat(text="hold"))
        await asyncio.wait_for(a.arrived.wait(), 5)
        await edge.route(model_route(b))

        async def moved() -> bool:
            return bool((await edge.chat()).json()["served_by"] == "b")

        assert await edge.until(moved) < 1
        a.release.set()
        assert (await held).json()["served_by"] == "a"


async def test_a_dead_replica_costs_no_request(edge: Edge) -> None:
    async with running_engine("b") as b:
        async with running_engine("a") as a:
            await edge.route(model_route(a, b))
            await edge.until_chat(200)
        # Nothing listens on a's port any more, and the table does not know it yet.
        answers = [await edge.chat() for _ in range(40)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["served_by"] for answer in answers} == {"b"}


async def test_a_model_whose_replicas_are_all_dead_says_unavailable(edge: Edge) -> None:
    async with running_engine("a") as a:
        await edge.route(model_route(a))
        await edge.until_chat(200)
    response = await edge.chat()
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "server_error"


async def test_a_started_answer_is_never_asked_for_again(edge: Edge) -> None:
    async with running_engine("a") as a, running_engine("b") as b:
        await edge.route(model_route(a, b))
        await edge.until_chat(200)
        before = len(a.seen) + len(b.seen)
        body = {"model": "tiny", "messages": [{"content": "one two three"}], "stream": True}
        async with edge.client.stream("POST", "/v1/chat/completions", json=body, headers=edge.bearer()) as response:
            lines = response.aiter_lines()
            await anext(lines)
            for engine in (a, b):
                for connection in list(engine.connections):
                    connection.transport.abort()
            with pytest.raises(Exception, match=r"peer closed|incomplete|closed"):
                await asyncio.wait_for(drain(lines), 5)
        assert len(a.seen) + len(b.seen) == before + 1


@pytest.mark.parametrize(
    "broken",
    [
        routing.Target(instance_id="x", address="127.0.0.1", port=70_000, inference_path="/v1", weight=1),
        routing.Target(instance_id="x", address="", port=80, inference_path="/v1", weight=1),
        routing.Target(instance_id="x", address="127.0.0.1", port=80, inference_path="/v1\r\nx: y", weight=1),
    ],
)
async def test_a_target_that_nothing_can_be_sent_to_keeps_no_other_from_changing(
    edge: Edge, broken: routing.Target
) -> None:
    async with running_engine("a") as a, running_engine("b") as b:
        bad = routing.ModelRoute(org_id=ORG, model="broken", targets=[broken])
        await edge.route(model_route(a), bad)
        await edge.until_chat(200)
        assert (await edge.chat("broken")).status_code == 404
        await edge.route(model_route(a), bad, model_route(b, model="late"))
        assert await edge.until_chat(200, "late") < 1
        assert await edge.metric("gateway_refusals_total") == 0


async def test_an_engine_can_be_named_instead_of_numbered(edge: Edge) -> None:
    async with running_engine("a") as engine:
        route = model_route(engine)
        route.targets[0].address = "localhost"
        await edge.route(route)
        await edge.until_chat(200)


async def reached(statuses: list[int], wanted: int) -> bool:
    return len(statuses) >= wanted


async def is_gone(edge: Edge, cluster: str) -> bool:
    return f"{cluster}::" not in await edge.admin("/clusters")


async def drain(lines: object) -> None:
    async for _ in lines:  # type: ignore[attr-defined]
        pass
