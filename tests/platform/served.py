"""A model that two nodes of a running platform serve, and what its user does with deployments."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import httpx

from mesh.loops import Wake
from tests.fakes.eventually import LOOK_EVERY, eventually
from tests.fixtures.platform import Platform

# A real engine on a busy machine, its environment being installed already.
START_S = 90.0
MANY = httpx.Limits(max_connections=None)
ENDED = ("running", "failed", "stopped")


@dataclass(frozen=True)
class Served:
    """The model's name, and by node name the node's id and the deployment there, as it was when it ran."""

    platform: Platform
    api_key: str
    model: str
    nodes: dict[str, str]
    replicas: dict[str, dict[str, Any]]

    def client(self, token: str = "", timeout_s: float = 30.0) -> httpx.AsyncClient:
        """A client of the REST API; signed in as the first user when nobody else is named."""
        headers = {"authorization": f"Bearer {token or self.api_key}"}
        return httpx.AsyncClient(
            base_url=self.platform.url, headers=headers, timeout=timeout_s, trust_env=False, limits=MANY
        )


async def fetched(rest: httpx.AsyncClient, path: str) -> dict[str, Any]:
    """What GET answers, which is what was asked for."""
    answer = await rest.get(path)
    assert answer.status_code == 200, answer.text
    fields: dict[str, Any] = answer.json()
    return fields


async def deploy(rest: httpx.AsyncClient, **fields: object) -> dict[str, Any]:
    """One more instance, as it is when it was just placed."""
    answer = await rest.post("/deployments", json=fields)
    assert answer.status_code == 200, answer.text
    deployment: dict[str, Any] = answer.json()
    assert deployment["status"] == "deploying"
    return deployment


async def settled(
    rest: httpx.AsyncClient, deployment_id: str, statuses: Collection[str] = ENDED, within_s: float = START_S
) -> dict[str, Any]:
    """The deployment once it has one of the statuses."""
    deployment: dict[str, Any] = {}

    async def has_it() -> bool:
        deployment.update(await fetched(rest, f"/deployments/{deployment_id}"))
        return deployment["status"] in statuses

    await eventually(has_it, within_s)
    return deployment


async def running(rest: httpx.AsyncClient, deployment_id: str) -> dict[str, Any]:
    """The deployment once it runs."""
    deployment = await settled(rest, deployment_id)
    assert deployment["status"] == "running", deployment
    return deployment


async def stop(rest: httpx.AsyncClient, deployment_id: str) -> dict[str, Any]:
    """Stop a deployment; answers it."""
    answer = await rest.delete(f"/deployments/{deployment_id}")
    assert answer.status_code == 200, answer.text
    deployment: dict[str, Any] = answer.json()
    return deployment


def question(model: str, text: str = "What is a node?", tokens: int = 3) -> dict[str, object]:
    """The body of a short chat."""
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens}


async def look_again() -> None:
    """The pause between two looks at the same thing."""
    await Wake().wait(LOOK_EVERY)
