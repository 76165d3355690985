"""Chats are answered while the services behind the edge are away, and everything is as before when they return."""

import httpx
import pytest

from tests.fakes.eventually import eventually
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.platform.chats import chatting
from tests.platform.outages import away, frozen, pid_of, unwell
from tests.platform.records import Record, records_until
from tests.platform.served import Served, fetched, question, running, stop

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)

SERVICES = ("controller", "gateway", "inference_router", "postgres", "broker")
# Without these nothing of the API can be answered; what is refused then says so.
NEEDED_BY_API = ("controller", "postgres")
UNCHANGED = ("status", "containerId", "port", "epoch", "restarts", "nodeId", "instanceId")
# Longer than it takes to notice that nothing comes from a peer any more.
LONG_S = 5.0
RETURN_S = 60.0
LIVE_S = 5.0


@pytest.mark.parametrize("name", SERVICES)
async def test_chats_are_answered_while_a_service_is_frozen(name: str, served: Served, rest: httpx.AsyncClient) -> None:
    async with chatting(rest, served.model) as chats:
        with frozen(pid_of(served.platform, name)):
            await chats.go_on(LONG_S)
            answer = await rest.get("/models", headers={"grpc-timeout": "3S"})
            assert answer.status_code in ({503, 504} if name in NEEDED_BY_API else {200}), answer.text
        await eventually(lambda: is_healthy(served, rest), RETURN_S)
        await chats.more(10)
    assert chats.failed == []
    assert (await rest.get("/models")).status_code == 200


@pytest.mark.parametrize("name", SERVICES)
async def test_chats_are_answered_while_a_service_is_dead_and_its_return_puts_everything_right(
    name: str, served: Served, rest: httpx.AsyncClient
) -> None:
    async with chatting(rest, served.model) as chats:
        async with away(served.platform, name):
            answer = await rest.post("/deployments", json={"modelId": served.model})
            await chats.go_on(LONG_S)
        await eventually(lambda: is_healthy(served, rest), RETURN_S)
        if name in NEEDED_BY_API:
            assert refused(answer) == (503, 14, "UNAVAILABLE")
            answer = await rest.post("/deployments", json={"modelId": served.model})
        await comes_and_goes(served, rest, answer.json())
        await chats.more(10)
    assert chats.failed == []
    for replica in served.replicas.values():
        now = await fetched(rest, f"/deployments/{replica['deploymentId']}")
        assert {name: now[name] for name in UNCHANGED} == {name: replica[name] for name in UNCHANGED}


async def is_healthy(served: Served, rest: httpx.AsyncClient) -> bool:
    """What the platform says of itself, to its users and to whoever runs it."""
    answer = await rest.get("/system/health")
    return answer.status_code == 200 and answer.json()["status"] == "healthy" and not unwell(served.platform)


async def comes_and_goes(served: Served, rest: httpx.AsyncClient, placed: dict[str, str]) -> None:
    """The way from a deployment to its route works from end to end, and back, and all of it is told."""
    deployment = await running(rest, placed["deploymentId"])

    async def is_answered(status: int) -> bool:
        return (await rest.post(deployment["endpoint"], json=question(served.model))).status_code == status

    await eventually(lambda: is_answered(200), LIVE_S)
    await stop(rest, deployment["deploymentId"])
    await eventually(lambda: is_answered(404), LIVE_S)
    assert await told(served, deployment["deploymentId"]) == ["", "running", "stopped"]


async def told(served: Served, deployment_id: str) -> list[str]:
    """The statuses that Kafka tells of a deployment, in their order, each event once."""

    def is_last(record: Record) -> bool:
        return record.key == deployment_id and record.value.get("status") == "stopped"

    servers = served.platform.state.service("broker").address
    records = await records_until(servers, ["aiops.deployments.v1"], is_last)
    mine = {record.headers["ce_id"]: record for record in records if record.key == deployment_id}
    return [record.value.get("status", "") for record in mine.values()]


def refused(answer: httpx.Response) -> tuple[int, int, str]:
    """Status, code and reason of an error."""
    fields = answer.json()
    return answer.status_code, fields["code"], fields["details"][0]["reason"]
