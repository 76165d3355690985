"""Rollouts on the running platform: bad candidates are rolled back by themselves, a good one is promoted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from cli.exits import Exit
from mesh.loops import Wake
from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.eventually import eventually
from tests.fixtures.platform import Platform
from tests.platform.served import MANY, fetched

pytestmark = pytest.mark.timeout(240)
EVERY = timedelta(milliseconds=50)
# How late a request may still come after the decision to roll back.
MOVED_S = 10.0


@dataclass
class Canary:
    """A route with two engines behind it, and who answered its requests."""

    name: str
    stable: Engine
    candidate: Engine
    rollout_id: str = ""
    answers: list[tuple[int, str]] = field(default_factory=list)


@asynccontextmanager
async def canary(rest: httpx.AsyncClient, name: str) -> AsyncIterator[Canary]:
    """The route, with everything for the engine that is called old."""
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(running_engine(each)) for each in ("old", "new")]
        engines[0].release.set()
        targets = [
            {
                "name": engine.name,
                "provider": "openai_compatible",
                "model": "scripted",
                "base_url": f"http://127.0.0.1:{engine.port}/v1",
                "weight": int(engine.name == "old"),
            }
            for engine in engines
        ]
        made = await rest.post("/routes", json={"route": {"name": name, "targets": targets}})
        assert made.status_code == 200, made.text
        try:
            yield Canary(name, engines[0], engines[1])
        finally:
            engines[1].release.set()
            assert (await rest.delete(f"/routes/{name}")).status_code == 200


@asynccontextmanager
async def load(rest: httpx.AsyncClient, canaries: list[Canary]) -> AsyncIterator[None]:
    """A request of each route every moment while the block lasts, whether those before were answered or not."""

    async def ask(one: Canary) -> None:
        body = {"model": one.name, "messages": [{"role": "user", "content": "hi"}]}
        with suppress(httpx.TransportError):
            answer = await rest.post("/v1/chat/completions", json=body)
            one.answers.append((answer.status_code, answer.headers.get("x-aiops-target", "")))

    async def repeat() -> None:
        while not ending.is_set():
            for one in canaries:
                group.create_task(ask(one))
            await Wake().wait(EVERY)

    ending = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(repeat())
        try:
            yield
        finally:
            ending.set()
            for one in canaries:
                one.candidate.release.set()


@asynccontextmanager
async def begun(rest: httpx.AsyncClient, one: Canary, **limits: float) -> AsyncIterator[None]:
    """A rollout of the route; it is aborted in the end, should it be under way."""
    spec = {
        "routeId": one.name,
        "candidate": "new",
        "steps": [{"weight": 50, "holdMs": 1000}],
        "limits": {"minRequests": 10, **limits},
    }
    answer = await rest.post("/rollouts", json={"spec": spec})
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert (made["spec"]["stable"], made["status"], made["weight"]) == ("old", "progressing", 0)
    one.rollout_id = made["rolloutId"]
    try:
        yield
    finally:
        assert (await rest.post(f"/rollouts/{one.rollout_id}/abort", json={})).status_code == 200


async def ended(rest: httpx.AsyncClient, one: Canary) -> dict[str, Any]:
    """The rollout once it is over."""
    found: dict[str, Any] = {}

    async def is_over() -> bool:
        found.update(await fetched(rest, f"/rollouts/{one.rollout_id}"))
        return found["status"] not in ("progressing", "paused", "rolling_back")

    await eventually(is_over, 90)
    return found


async def led_to(one: Canary, name: str, times: int = 20) -> None:
    """Returns when the target has given so many answers in a row."""

    async def is_led() -> bool:
        return len(one.answers) >= times and {who for _, who in one.answers[-times:]} == {name}

    await eventually(is_led, 60)


async def test_bad_candidates_are_rolled_back_by_themselves_and_a_good_one_is_promoted(
    platform: Platform,
) -> None:
    token = await asyncio.to_thread(_token, platform)
    async with AsyncExitStack() as stack:
        headers = {"authorization": f"Bearer {token}"}
        rest = await stack.enter_async_context(
            httpx.AsyncClient(base_url=platform.url, headers=headers, timeout=60, trust_env=False, limits=MANY)
        )
        good, slow, erroring, silent = [
            await stack.enter_async_context(canary(rest, name)) for name in ("good", "slow", "erroring", "silent")
        ]
        slow.candidate.delay_s, erroring.candidate.failing, silent.candidate.silent = 3.0, True, True
        every = [good, slow, erroring, silent]
        await stack.enter_async_context(load(rest, every))
        for one in every:
            await led_to(one, "old")
        # Whatever else the machine does must not make the good one slow.
        await stack.enter_async_context(begun(rest, good, maxLatencyRatio=50, latencySlackMs=2000))
        for one in (slow, erroring):
            await stack.enter_async_context(begun(rest, one))
        await stack.enter_async_context(begun(rest, silent, silenceMs=2000))
        told = {one.name: await ended(rest, one) for one in every}
        assert {name: each["status"] for name, each in told.items()} == {
            "good": "promoted",
            "slow": "rolled_back",
            "erroring": "rolled_back",
            "silent": "rolled_back",
        }, told
        assert "latency" in told["slow"]["statusReason"]
        assert "failed" in told["erroring"]["statusReason"]
        assert "answered nothing" in told["silent"]["statusReason"]
        await led_to(good, "new")
        for one in (slow, erroring, silent):
            one.candidate.release.set()
            await led_to(one, "old")
            decided = told[one.name]["decisions"][-1]
            assert decided["action"] == "roll_back"
            assert one.candidate.arrivals[-1] - datetime.fromisoformat(decided["at"]).timestamp() < MOVED_S
        # Nobody but clients of the bad candidates was failed.
        assert {status for status, who in good.answers if who} == {200}
        assert {status for one in every for status, who in one.answers if who == "old"} == {200}
    await asyncio.to_thread(_look_back, platform)


def _look_back(platform: Platform) -> None:
    """The command line shows what was."""
    (last,) = platform.aiops_json("rollouts", "list", "--route", "good")
    assert last["status"] == "aborted"
    shown = platform.aiops_json("rollouts", "show", last["rolloutId"])
    assert [each["action"] for each in shown["decisions"]] == ["create", "advance", "promote", "abort"]
    assert platform.aiops("rollouts", "pause", last["rolloutId"]).returncode == Exit.CONFLICT


def _token(platform: Platform) -> str:
    credentials = {"email": "admin@localhost", "password": platform.admin_password}
    answer = httpx.post(f"{platform.url}/auth/login", json=credentials, trust_env=False, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["accessToken"])
