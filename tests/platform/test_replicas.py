"""One more replica is one more call; the load is shared, and a replica's end costs nobody an answer."""

import httpx
import pytest

from tests.fakes.eventually import eventually
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.platform.chats import chatting
from tests.platform.served import Served, deploy, fetched, question, running, stop

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)


async def test_a_replica_joins_shares_the_load_and_leaves_without_a_failed_request(
    served: Served, rest: httpx.AsyncClient
) -> None:
    async with chatting(rest, served.model, clients=4) as chats:
        placed = await deploy(rest, modelId=served.model)
        joined = await running(rest, placed["deploymentId"])
        replicas = [each["deploymentId"] for each in (*served.replicas.values(), joined)]

        async def all_chat() -> bool:
            counts = [await chats_of(rest, deployment_id) for deployment_id in replicas]
            return min(counts) >= 5

        await eventually(all_chat, 30)
        await stop(rest, joined["deploymentId"])
        await chats.more(60)
    assert chats.failed == []
    assert (await rest.post(joined["endpoint"], json=question(served.model))).status_code == 404
    page = await fetched(rest, f"/deployments?modelId={joined['modelId']}&status=running")
    assert {each["deploymentId"] for each in page["deployments"]} == set(replicas[:2])


async def chats_of(rest: httpx.AsyncClient, deployment_id: str) -> int:
    """How many of the last lines of an engine's log are chats."""
    page = await fetched(rest, f"/deployments/{deployment_id}/logs?lines=60")
    return int(page["logs"].count("POST /v1/chat/completions"))
