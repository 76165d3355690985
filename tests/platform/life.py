"""One deployment's life from its call to its end, with clients on both of its routes, and what was seen of it."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.fakes.eventually import eventually
from tests.platform.chats import Chats, chatting
from tests.platform.served import START_S, Served, deploy, question, running, stop

BY_MODEL = "/v1/chat/completions"
BY_INSTANCE = "the instance's own path"


@dataclass
class Life:
    """What was seen; times are on the clock of `time.monotonic`, routes are BY_MODEL and BY_INSTANCE."""

    deployment: dict[str, Any]
    ran_at: float = 0.0
    live_at: dict[str, float] = field(default_factory=dict)
    before_live: set[int] = field(default_factory=set)
    stopped_at: float = 0.0
    chats: dict[str, Chats] = field(default_factory=dict)
    followed: str = ""

    @property
    def path(self) -> str:
        return f"/deployments/{self.deployment['deploymentId']}"


async def live(served: Served, model: str) -> Life:
    """Deploy the model, chat as soon as it is reached, stop it under load."""
    async with served.client() as rest:
        life = Life(await deploy(rest, modelId=model))
        async with asyncio.TaskGroup() as group:
            group.create_task(_run(rest, life))
            group.create_task(_reach(rest, life, BY_MODEL))
            group.create_task(_reach(rest, life, BY_INSTANCE))
        following = asyncio.ensure_future(_follow(rest, life))
        async with (
            chatting(rest, model, _url(life, BY_MODEL)) as by_model,
            chatting(rest, model, _url(life, BY_INSTANCE)) as by_instance,
        ):
            life.chats = {BY_MODEL: by_model, BY_INSTANCE: by_instance}
            await asyncio.gather(by_model.more(10), by_instance.more(10))
            life.stopped_at = time.monotonic()
            await stop(rest, life.deployment["deploymentId"])
            await asyncio.gather(by_model.go_on(2), by_instance.go_on(2))
        await asyncio.wait_for(following, 30)
    return life


async def _run(rest: httpx.AsyncClient, life: Life) -> None:
    life.deployment = await running(rest, life.deployment["deploymentId"])
    life.ran_at = time.monotonic()


async def _reach(rest: httpx.AsyncClient, life: Life, route: str) -> None:
    async def is_live() -> bool:
        answer = await rest.post(_url(life, route), json=question(life.deployment["modelName"]))
        if answer.status_code != 200:
            life.before_live.add(answer.status_code)
        return answer.status_code == 200

    await eventually(is_live, START_S)
    life.live_at[route] = time.monotonic()


async def _follow(rest: httpx.AsyncClient, life: Life) -> None:
    async with rest.stream("GET", f"{life.path}/logs/follow", timeout=60) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            life.followed += json.loads(line)["logs"] if line else ""


def _url(life: Life, route: str) -> str:
    return BY_MODEL if route == BY_MODEL else str(life.deployment["endpoint"])
