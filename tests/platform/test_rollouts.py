"""Rollouts on the running platform: bad candidates are rolled back by themselves, a good one is promoted."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

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
async def canary(platform: Platform, directory: Path, name: str) -> AsyncIterator[Canary]:
    """The route, made on the command line."""
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(running_engine(each)) for each in ("old", "new")]
        engines[0].release.set()
        file = directory / f"{name}.json"
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
        file.write_text(json.dumps({"targets": targets}))
        await asyncio.to_thread(platform.aiops_json, "routes", "create", name, "-f", str(file))
        try:
            yield Canary(name, engines[0], engines[1])
        finally:
            engines[1].release.set()
            await asyncio.to_thread(platform.aiops, "routes", "delete", name)


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


@contextmanager
def begun(platform: Platform, one: Canary, *more: str) -> Iterator[None]:
    """A rollout of the route, made on the command line; it is aborted in the end, should it be under way."""
    made = platform.aiops_json("rollouts", "create", one.name, "new", "--step", "50:1", "--min-requests", "10", *more)
    one.rollout_id = made["rolloutId"]
    assert (made["spec"]["stable"], made["status"], made["weight"]) == ("old", "progressing", 0)
    try:
        yield
    finally:
        assert platform.aiops("rollouts", "abort", one.rollout_id).returncode == 0


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
    platform: Platform, tmp_path: Path
) -> None:
    token = await asyncio.to_thread(_token, platform)
    silence = tmp_path / "silence.json"
    silence.write_text(json.dumps({"limits": {"silence_ms": 2000}}))
    lenient = tmp_path / "lenient.json"
    lenient.write_text(json.dumps({"limits": {"max_latency_ratio": 50, "latency_slack_ms": 2000}}))
    async with AsyncExitStack() as stack:
        headers = {"authorization": f"Bearer {token}"}
        rest = await stack.enter_async_context(
            httpx.AsyncClient(base_url=platform.url, headers=headers, timeout=60, trust_env=False, limits=MANY)
        )
        good, slow, erroring, silent = [
            await stack.enter_async_context(canary(platform, tmp_path, name))
            for name in ("good", "slow", "erroring", "silent")
        ]
        slow.candidate.delay_s, erroring.candidate.failing, silent.candidate.silent = 1.0, True, True
        every = [good, slow, erroring, silent]
        await stack.enter_async_context(load(rest, every))
        for one in every:
            await led_to(one, "old")
        for one, more in ((good, ("-f", str(lenient))), (slow, ()), (erroring, ()), (silent, ("-f", str(silence)))):
            await asyncio.to_thread(stack.enter_context, begun(platform, one, *more))
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
    shown = await asyncio.to_thread(platform.aiops_json, "rollouts", "list", "--route", "good")
    assert [each["status"] for each in shown] == ["aborted"]


def _token(platform: Platform) -> str:
    credentials = {"email": "admin@localhost", "password": platform.admin_password}
    answer = httpx.post(f"{platform.url}/auth/login", json=credentials, trust_env=False, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["accessToken"])
