"""Models that sleep, through a real Envoy: their requests wait, wake them, and are answered by whoever comes up."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from aiops.routing.v1 import routing_service_pb2 as routing

from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.routes import policy, target
from tests.fixtures.edge import ORG, Edge, model_route

pytestmark = pytest.mark.asyncio(loop_scope="module")
SET = "set-sleepy"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(edge: Edge) -> AsyncIterator[Engine]:
    """An engine that comes up when its model wakes."""
    async with running_engine("woken") as running:
        running.release.set()
        yield running


def sleepy(*engines: Engine, hold_seconds: int = 60, standing: str = "") -> routing.ModelRoute:
    """The model, asleep when there is no engine."""
    route = model_route(*engines, model="sleepy", org=ORG)
    for each in route.targets:
        each.replica_set_id = SET
    route.sleep.CopyFrom(routing.Sleep(replica_set_id=SET, hold_seconds=hold_seconds, standing=standing))
    return route


async def asleep(edge: Edge, *, hold_seconds: int = 60, standing: str = "") -> None:
    """Nobody serves the model any more, and Envoy knows that."""
    await edge.route(sleepy(hold_seconds=hold_seconds, standing=standing))
    await led_to_the_room(edge, f"model/{ORG}/sleepy", "sleepy")


async def names(edge: Edge) -> list[str]:
    listed = await edge.client.get("/v1/models", headers=edge.bearer())
    return [model["id"] for model in listed.json()["data"]]


async def led_to_the_room(edge: Edge, cluster: str, name: str) -> None:
    """Envoy has a route of that name, and sends requests for the cluster to the waiting room."""

    async def known() -> bool:
        lines = (await edge.admin("/clusters")).splitlines()
        led = any(line.startswith(f"{cluster}::") and line.endswith(f"::hostname::{SET}") for line in lines)
        return led and name in await names(edge)

    await edge.until(known, seconds=20)


async def held(edge: Edge, number: int) -> None:
    """The controller was told that so many wait."""

    async def told() -> bool:
        return SET in edge.plane.loads and edge.plane.loads[SET].held == number

    await edge.until(told, seconds=20)


async def test_fifty_requests_wait_for_one_start_and_are_all_answered(edge: Edge, engine: Engine) -> None:
    await asleep(edge)
    engine.seen.clear()
    waiting = [asyncio.ensure_future(edge.chat("sleepy", f"{number} " + "x" * 100_000)) for number in range(50)]
    await held(edge, 50)
    assert engine.seen == []
    await edge.route(sleepy(engine))
    woken = time.monotonic()
    answers = await asyncio.gather(*waiting)
    assert [answer.status_code for answer in answers] == [200] * 50
    assert time.monotonic() - woken < 10
    # Each was asked once, whole, and told which instance answered as ever.
    asked = [json.loads(seen.body)["messages"][0]["content"] for seen in engine.seen]
    assert sorted(int(each.split()[0]) for each in asked) == list(range(50))
    assert {len(each.split()[1]) for each in asked} == {100_000}
    assert not [name for answer in answers for name in answer.headers if name.startswith("x-envoy-rate")]
    await held(edge, 0)


async def test_a_stream_that_waited_comes_as_it_is_written(edge: Edge, engine: Engine) -> None:
    await asleep(edge)
    body = {"model": "sleepy", "stream": True, "messages": [{"role": "user", "content": "one two three"}]}

    async def lines() -> list[str]:
        async with edge.client.stream("POST", "/v1/chat/completions", json=body, headers=edge.bearer()) as answer:
            assert answer.status_code == 200
            return [line async for line in answer.aiter_lines() if line]

    waiting = asyncio.ensure_future(lines())
    await held(edge, 1)
    await edge.route(sleepy(engine))
    said = await waiting
    assert (len(said), said[-1]) == (4, "data: [DONE]")


async def test_past_the_bound_the_answer_says_what_goes_on(edge: Edge, engine: Engine) -> None:
    await asleep(edge, hold_seconds=1, standing="0 of 1 replicas serve; no node can take sleepy")
    answer = await edge.chat("sleepy")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["error"] == {
        "message": "model sleepy was asleep and did not wake within 1 s: 0 of 1 replicas serve; no node can take "
        "sleepy; it goes on waking, try again",
        "type": "server_error",
        "param": "model",
        "code": "model_waking",
    }
    assert "x-envoy-ratelimited" not in answer.headers


async def test_who_leaves_is_not_held_any_more(edge: Edge, engine: Engine) -> None:
    await asleep(edge)
    engine.seen.clear()
    leaving, staying = (asyncio.ensure_future(edge.chat("sleepy", text)) for text in ("leaves", "stays"))
    await held(edge, 2)
    leaving.cancel()
    await held(edge, 1)
    await edge.route(sleepy(engine))
    assert (await staying).status_code == 200
    assert [json.loads(seen.body)["messages"][0]["content"] for seen in engine.seen] == ["stays"]


async def test_an_alias_wakes_its_model_and_lists_have_it_asleep(edge: Edge, engine: Engine) -> None:
    await asleep(edge)
    assert await names(edge) == ["sleepy"]

    def alias(*engines: Engine) -> routing.PolicyRoute:
        to = target(*engines, name="only", model="sleepy", weight=1)
        to.sleep.CopyFrom(routing.Sleep(replica_set_id=SET, hold_seconds=60))
        return policy("alias", to)

    await edge.route(sleepy(), policies=[alias()])

    await led_to_the_room(edge, "target/route-alias/only", "alias")
    waiting = asyncio.ensure_future(edge.chat("alias"))
    await held(edge, 1)
    await edge.route(sleepy(engine), policies=[alias(engine)])
    answer: httpx.Response = await waiting
    assert (answer.status_code, answer.headers["x-aiops-target"]) == (200, "only")


async def test_what_replicas_work_on_is_told(edge: Edge, engine: Engine) -> None:
    engine.release.clear()
    await edge.route(sleepy(engine))
    await edge.until_chat(200, "sleepy", seconds=30)
    open_ones = [asyncio.ensure_future(edge.chat("sleepy", "hold")) for _ in range(3)]

    async def told(number: int) -> bool:
        return edge.plane.loads[SET].in_flight == number

    await edge.until(lambda: told(3), seconds=20)
    assert edge.plane.loads[SET].idle_seconds < 10
    engine.release.set()
    assert [answer.status_code for answer in await asyncio.gather(*open_ones)] == [200] * 3
    await edge.until(lambda: told(0), seconds=20)

    async def idle() -> bool:
        return edge.plane.loads[SET].idle_seconds > 1

    await edge.until(idle, seconds=20)


async def test_falling_asleep_and_waking_lose_no_request(edge: Edge, engine: Engine) -> None:
    await edge.route(sleepy(engine))
    await edge.until_chat(200, "sleepy", seconds=30)
    answers = list[httpx.Response]()
    over = asyncio.Event()

    async def ask() -> None:
        while not over.is_set():
            answers.append(await edge.chat("sleepy"))

    clients = [asyncio.ensure_future(ask()) for _ in range(8)]
    for _ in range(8):
        before = len(answers)
        await edge.route(sleepy())
        # All of them come to wait, whatever they were at when the model fell asleep.
        await held(edge, len(clients))
        await edge.route(sleepy(engine))

        async def answered(before: int = before) -> bool:
            return len(answers) > before + 2 * len(clients)

        await edge.until(answered, seconds=20)
    over.set()
    await asyncio.gather(*clients)
    assert {answer.status_code for answer in answers} == {200}
