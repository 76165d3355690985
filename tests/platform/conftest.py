"""One model on both nodes of the session's platform, for every test of this folder."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from stack.demo.platform import demo_model
from tests.fixtures.platform import Platform
from tests.platform.served import Served, deploy, fetched, running, stop

MODEL = "platform-demo"


@pytest.fixture(scope="session")
def served(platform: Platform) -> Iterator[Served]:
    """The demo model, running on both nodes from its first use on; it is stopped and deleted in the end."""
    platform.aiops_json("models", "import", str(demo_model()), "--name", MODEL)
    served = asyncio.run(_serve(platform))
    yield served
    asyncio.run(_end(served))


@pytest.fixture
async def rest(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """The REST API, as the first user."""
    async with served.client() as client:
        yield client


async def _serve(platform: Platform) -> Served:
    """A replica on each node, made with an API key of the first user that outlives every test."""
    async with httpx.AsyncClient(base_url=platform.url, timeout=30, trust_env=False) as rest:
        credentials = {"email": "admin@localhost", "password": platform.admin_password}
        token = (await rest.post("/auth/login", json=credentials)).json()["accessToken"]
        rest.headers["authorization"] = f"Bearer {token}"
        key = (await rest.post("/api-keys", json={"name": f"platform-{time.time_ns()}"})).json()
        nodes = {node["name"]: node["nodeId"] for node in (await fetched(rest, "/nodes"))["nodes"]}
        made = {name: await deploy(rest, modelId=MODEL, nodeId=node_id) for name, node_id in nodes.items()}
        replicas = {name: await running(rest, each["deploymentId"]) for name, each in made.items()}
    return Served(platform, key["secret"], MODEL, nodes, replicas)


async def _end(served: Served) -> None:
    async with served.client() as rest:
        page = await fetched(rest, f"/deployments?modelId={served.replicas['node-1']['modelId']}")
        for deployment in page["deployments"]:
            await stop(rest, deployment["deploymentId"])
        assert (await rest.delete(f"/models/{served.model}")).status_code == 200
