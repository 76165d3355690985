"""How long a changed rule takes until requests follow it, through the whole platform, among many models."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx

from benchmarks.open_loop import quantile
from benchmarks.peer import constant_upstream
from benchmarks.upstream import MODEL
from tests.fakes.eventually import eventually
from tests.fixtures.platform import Platform, platform_in

CHANGES = 60
MAKING = 16
LIVE_S = 60.0
LOOK_EVERY = timedelta(milliseconds=5)


async def rule_live_p99_s(models: int) -> float:
    """Seconds (p99) from sending a change of a route until a request has followed it."""
    async with constant_upstream() as upstream, _platform() as platform, _signed_in(platform) as rest:
        # A provider on the loopback stands for one elsewhere.
        target = {"provider": "openai_compatible", "model": MODEL, "baseUrl": f"http://127.0.0.1:{upstream}/v1"}
        started = time.monotonic()
        await _make(rest, models, {**target, "name": "first", "weight": 1})
        await _follow(rest, f"model-{models - 1:04}", "first")
        print(f"{models} models are live after {time.monotonic() - started:.1f} s", flush=True)
        delays = []
        for number in range(CHANGES):
            name, wanted = f"model-{number * models // CHANGES:04}", f"changed-{number}"
            before = time.perf_counter_ns()
            changed = await rest.patch(f"/routes/{name}", json={"targets": [{**target, "name": wanted, "weight": 1}]})
            changed.raise_for_status()
            await _follow(rest, name, wanted)
            delays.append(time.perf_counter_ns() - before)
    delays.sort()
    p50, p99 = quantile(delays, 0.5) / 1e9, quantile(delays, 0.99) / 1e9
    print(f"{CHANGES} changes of rules among {models} models were live: p50 {p50:.3f} s, p99 {p99:.3f} s")
    return p99


async def _make(rest: httpx.AsyncClient, models: int, target: dict[str, object]) -> None:
    left = list(range(models))

    async def make() -> None:
        while left:
            number = left.pop()
            made = await rest.post("/routes", json={"route": {"name": f"model-{number:04}", "targets": [target]}})
            made.raise_for_status()

    async with asyncio.TaskGroup() as group:
        for _ in range(MAKING):
            group.create_task(make())


async def _follow(rest: httpx.AsyncClient, model: str, target: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}

    async def followed() -> bool:
        answer = await rest.post("/v1/chat/completions", json=body)
        return answer.status_code == 200 and answer.headers.get("x-aiops-target") == target

    await eventually(followed, LIVE_S, LOOK_EVERY)


@asynccontextmanager
async def _platform() -> AsyncIterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="aiops-bench-") as scratch:
        platform = platform_in(Path(scratch))
        platform.environment["AIOPS_PRIVATE_PROVIDERS"] = "on"
        await asyncio.to_thread(platform.start, 0)
        try:
            yield platform
        finally:
            await asyncio.to_thread(platform.stop)


@asynccontextmanager
async def _signed_in(platform: Platform) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=platform.url, timeout=60, trust_env=False) as rest:
        credentials = {"email": "admin@localhost", "password": platform.admin_password}
        token = (await rest.post("/auth/login", json=credentials)).json()["accessToken"]
        key = (
            await rest.post("/api-keys", json={"name": "rules"}, headers={"authorization": f"Bearer {token}"})
        ).json()
        rest.headers["authorization"] = f"Bearer {key['secret']}"
        yield rest
