"""Faults at the edge: Envoy dies, its configuration or its keys are away, and what stands behind it fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from stack.envoy import Envoy
from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.eventually import eventually
from tests.fakes.faulty_engine import FaultyEngine, faulty_engine
from tests.fakes.routes import policy, target
from tests.fixtures.edge import Edge, Issuer, healthy, model_route

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]
STREAMS = 100
BACK_S = 3.0
PATIENCE_S = 60.0


@asynccontextmanager
async def chats_at(edge: Edge, *models: str) -> AsyncIterator[list[int]]:
    """The statuses of chats that go on while the block lasts."""
    seen, over = list[int](), asyncio.Event()

    async def chat(model: str) -> None:
        while not over.is_set():
            seen.append((await edge.chat(model)).status_code)

    async with asyncio.TaskGroup() as group:
        for model in models:
            group.create_task(chat(model))
        try:
            yield seen
        finally:
            over.set()


async def read_stream(edge: Edge, client: httpx.AsyncClient, began: asyncio.Event) -> list[str]:
    """The lines of one stream. TransportError when it ends before it is done."""
    body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "one two"}]}
    lines = list[str]()
    async with client.stream("POST", "/v1/chat/completions", json=body, headers=edge.bearer()) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            began.set()
            lines += [line] if line else []
    return lines


async def test_f34_envoy_dies_during_many_streams_none_passes_for_whole_and_all_go_on_soon(edge: Edge) -> None:
    many = httpx.Limits(max_connections=None)
    async with (
        running_engine("a") as engine,
        httpx.AsyncClient(base_url=edge.url, timeout=PATIENCE_S, trust_env=False, limits=many) as client,
    ):
        await edge.route(model_route(engine))
        await edge.until_chat(200, seconds=PATIENCE_S)
        begun = [asyncio.Event() for _ in range(STREAMS)]
        streams = [asyncio.create_task(read_stream(edge, client, began)) for began in begun]
        await asyncio.gather(*(asyncio.wait_for(began.wait(), PATIENCE_S) for began in begun))
        await edge.restart_envoy()
        ends = await asyncio.gather(*streams, return_exceptions=True)
        assert {isinstance(end, httpx.TransportError) for end in ends} == {True}
        await edge.until(healthy(Envoy(edge.bootstrap, edge.port, edge.admin_port)), seconds=PATIENCE_S)
        # From the moment it serves it knows all: no request finds it without its model for long.
        assert await edge.until_chat(200, seconds=PATIENCE_S) < BACK_S
        engine.release.set()
        again = await asyncio.gather(*(read_stream(edge, client, asyncio.Event()) for _ in range(STREAMS)))
        assert {lines[-1] for lines in again} == {"data: [DONE]"}
        assert {len(lines) for lines in again} == {3}


async def test_f35_without_its_configuration_envoy_opens_nothing_and_later_keeps_what_it_has(edge: Edge) -> None:
    async with running_engine("a") as engine:
        await edge.route(model_route(engine))
        await edge.until_chat(200, seconds=PATIENCE_S)
        async with chats_at(edge, "tiny") as seen:
            await edge.stop_gateway(kill=True)
            asked = len(seen)

            async def went_on() -> bool:
                return len(seen) > asked + 50

            await eventually(went_on, PATIENCE_S)
        assert set(seen) == {200}
        await edge.restart_envoy()

        async def waits() -> bool:
            """Its admin answers, and it says that it is not ready."""
            try:
                page = await edge.client.get(f"http://127.0.0.1:{edge.admin_port}/ready")
            except httpx.TransportError:
                return False
            return page.status_code == 503

        await eventually(waits, PATIENCE_S)
        for _ in range(5):
            with pytest.raises(httpx.ConnectError):
                await edge.chat()
            assert await waits()
        await edge.start_gateway()
        await edge.until(healthy(Envoy(edge.bootstrap, edge.port, edge.admin_port)), seconds=PATIENCE_S)
        await edge.until_chat(200, seconds=PATIENCE_S)


@pytest.mark.parametrize("fault", ["429", "503", "hang", "garbage", "reset"])
async def test_f43_what_a_failing_target_did_not_answer_another_one_does_and_it_is_left_alone(
    edge: Edge, fault: str
) -> None:
    async with faulty_engine("bad", fault) as bad, running_engine("good") as good:
        # Long enough for a busy machine to answer in.
        await route_to(edge, bad, good, f"pair-{fault}", first_byte_timeout_ms=1000 if fault == "hang" else 0)
        # One after the other at first: what is open at once is no answer to a failure yet.
        answers = [await edge.chat(f"pair-{fault}") for _ in range(10)]
        for _ in range(50):
            answers += await asyncio.gather(*(edge.chat(f"pair-{fault}") for _ in range(4)))
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.headers["x-aiops-degraded"] for answer in answers} == {"true"}
        assert {answer.headers["x-aiops-target"] for answer in answers} == {"good"}
        # Not more than a tenth on top of what was asked: whoever fails again and again is left alone.
        assert bad.asked <= len(answers) / 10


async def test_f43_an_error_of_the_request_is_not_tried_elsewhere_and_half_a_stream_is_never_spliced(
    edge: Edge,
) -> None:
    async with faulty_engine("bad", "500") as bad, running_engine("good") as good:
        good.release.set()
        await route_to(edge, bad, good, "careful")
        asked = len(good.seen)
        assert (await edge.chat("careful")).status_code == 500
        bad.fault = "cut"
        body = {"model": "careful", "stream": True, "messages": [{"role": "user", "content": "one two"}]}
        lines = list[str]()
        try:
            async with edge.client.stream("POST", "/v1/chat/completions", json=body, headers=edge.bearer()) as answer:
                async for line in answer.aiter_lines():
                    lines += [line] if line else []
        except httpx.RemoteProtocolError:
            lines.append("cut")
        # The client sees that it is not whole, by a cut or by an event that says so.
        assert "half" in lines[0]
        assert lines[-1] == "cut" or '"error"' in "".join(lines[1:])
        assert "data: [DONE]" not in lines
        assert len(good.seen) == asked


async def test_f42_keys_that_are_known_stay_good_while_their_source_is_away_and_others_never_are(edge: Edge) -> None:
    async with running_engine("a") as engine:
        await edge.route(model_route(engine))
        await edge.until_chat(200, seconds=PATIENCE_S)
        stranger = Issuer(kid="k2")
        unknown = {"authorization": f"Bearer {stranger.token()}"}
        await edge.stop_controller()
        for _ in range(10):
            assert (await edge.chat()).status_code == 200
            assert (await edge.chat(headers=unknown)).status_code == 401
            assert (await edge.chat(headers={"accept": "*/*"})).status_code == 401
        old = edge.issuer
        try:
            await edge.start_controller()
            edge.issuer = stranger
            # The keys rotate: the new one is good, the old one no more.
            await edge.revoke()
            await edge.until_chat(200, seconds=PATIENCE_S)
            assert (await edge.chat(headers={"authorization": f"Bearer {old.token()}"})).status_code == 401
        finally:
            edge.issuer = old
            await edge.revoke()
        await edge.until_chat(200, seconds=PATIENCE_S)


async def route_to(edge: Edge, bad: FaultyEngine, good: Engine, model: str, first_byte_timeout_ms: int = 0) -> None:
    """Leads to the failing target first, then to the other; returns when the gateway has it."""
    first = target(Engine(bad.name, bad.port), weight=1)
    chain = policy(
        model,
        first,
        target(good),
        fallbacks=good.name,
        failure_threshold=3,
        recovery_timeout_ms=120_000,
        first_byte_timeout_ms=first_byte_timeout_ms,
    )
    await edge.route(policies=[chain])

    async def known() -> bool:
        listed = (await edge.client.get("/v1/models", headers=edge.bearer())).json()["data"]
        return any(each["id"] == model for each in listed)

    await eventually(known, PATIENCE_S)
