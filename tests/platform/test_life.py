"""A deployment's life from its call to its end: when it is reached, what it logs, and what is told of it."""

import asyncio
import logging
from collections.abc import Iterator

import grpc
import httpx
import pytest
from aiops.deployments.v1 import deployment_service_pb2 as pb
from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub

from stack.demo.platform import demo_model
from tests.fakes.eventually import eventually
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.platform.life import BY_INSTANCE, BY_MODEL, Life, live
from tests.platform.records import Record, records_until
from tests.platform.served import Served, fetched

log = logging.getLogger(__name__)
pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)

MODEL = "platform-life"
WITHIN_S = 1.0
HEARTBEAT_S = 5.0


@pytest.fixture(scope="module")
def life(served: Served) -> Iterator[Life]:
    """The life of a model of its own."""
    served.platform.aiops_json("models", "import", str(demo_model()), "--name", MODEL)
    yield asyncio.run(live(served, MODEL))
    assert served.platform.aiops("models", "delete", MODEL).returncode == 0


def test_both_routes_are_live_within_a_second_of_running(life: Life) -> None:
    delays = {route: round(1000 * (at - life.ran_at)) for route, at in life.live_at.items()}
    log.info("live after %s ms", delays)
    assert max(delays.values()) <= 1000 * WITHIN_S
    assert life.before_live == {404}


@pytest.mark.parametrize("route", [BY_MODEL, BY_INSTANCE])
def test_a_route_is_gone_within_a_second_of_the_stop_and_no_request_fails(life: Life, route: str) -> None:
    answers = life.chats[route].answers
    served = [answer for answer in answers if answer.status == 200]
    gone = [answer for answer in answers if answer.status == 404]
    assert len(served) + len(gone) == len(answers), {answer.text for answer in answers if answer.status != 200}
    last, first = max(answer.began for answer in served), min(answer.ended for answer in gone)
    ms = [round(1000 * (moment - life.stopped_at)) for moment in (last, first)]
    log.info("%s: last chat served %d ms, first refused %d ms after the call to stop", route, *ms)
    assert first - life.stopped_at <= WITHIN_S
    assert last - life.stopped_at <= WITHIN_S


async def test_a_log_is_followed_while_it_is_written_and_paged_afterwards(life: Life, rest: httpx.AsyncClient) -> None:
    page = await fetched(rest, f"{life.path}/logs?lines=10000")
    whole = page["logs"]
    while not page["end"]:
        page = await fetched(rest, f"{life.path}/logs?pageToken={page['nextPageToken']}")
        whole += page["logs"]
    assert whole.startswith(life.followed)
    assert life.followed.count("POST /v1/chat/completions") >= 10
    tail = await fetched(rest, f"{life.path}/logs?lines=3")
    assert tail["logs"].splitlines() == whole.splitlines()[-3:]
    assert (await fetched(rest, f"{life.path}/logs?pageToken={page['nextPageToken']}"))["end"] is True


async def test_a_running_log_is_followed_over_grpc(served: Served, rest: httpx.AsyncClient) -> None:
    replica = served.replicas["node-1"]
    request = pb.FollowDeploymentLogsRequest(deployment_id=replica["deploymentId"], lines=1)
    metadata = (("authorization", f"Bearer {served.api_key}"),)
    async with grpc.aio.insecure_channel(served.platform.url.removeprefix("http://")) as channel:
        stream = DeploymentServiceStub(channel).FollowDeploymentLogs(request, metadata=metadata, timeout=30)
        parts = aiter(stream)
        assert len((await anext(parts)).logs.splitlines()) == 1
        assert (await rest.get(f"/models/{served.model}/{replica['instanceId']}/said-over-grpc")).status_code == 404
        heard = ""
        while "said-over-grpc" not in heard:
            heard += (await anext(parts)).logs
        stream.cancel()


async def test_what_a_deployment_uses_is_measured_anew_with_each_heartbeat(
    served: Served, rest: httpx.AsyncClient
) -> None:
    replica = served.replicas["node-1"]
    path = f"/deployments/{replica['deploymentId']}/metrics"
    metrics = await fetched(rest, path)
    assert metrics["deploymentId"] == replica["deploymentId"]
    assert 50 < metrics["memoryMb"] < 4000
    assert metrics["uptimeSeconds"] > 0
    assert (metrics["restarts"], metrics["gpuMemoryMb"]) == (0, 0)

    async def is_newer() -> bool:
        return bool((await fetched(rest, path))["measuredAt"] > metrics["measuredAt"])

    await eventually(is_newer, 3 * HEARTBEAT_S)


async def test_every_change_is_told_on_kafka_in_its_order(life: Life, served: Served) -> None:
    deployment, node_id = life.deployment, life.deployment["nodeId"]

    def is_last(record: Record) -> bool:
        return (record.type, record.value.get("event"), record.value.get("containerId")) == (
            *("system.node.containerEvent", "stopped"),
            deployment["containerId"],
        )

    topics = ("aiops.deployments.v1", "aiops.models.v1", "aiops.nodes.v1")
    records = await records_until(served.platform.state.service("broker").address, topics, is_last)
    mine = [record for record in records if record.key == deployment["deploymentId"]]
    assert [(record.topic, record.type, record.value.get("status")) for record in mine] == [
        ("aiops.deployments.v1", "system.deploymentCreated", None),
        ("aiops.deployments.v1", "system.deploymentStatus", "running"),
        ("aiops.deployments.v1", "system.deploymentStatus", "stopped"),
    ]
    assert mine[1].value["endpoint"] == deployment["endpoint"]
    (imported,) = [record for record in records if record.key == deployment["modelId"]]
    assert (imported.topic, imported.type) == ("aiops.models.v1", "system.modelDownloaded")
    told = [record for record in records if record.key == node_id and about(record, deployment)]
    assert [(record.type, what(record)) for record in without_repetition(told)] == [
        ("system.node.deployModel", ""),
        ("system.node.deploymentProgress", "downloading"),
        ("system.node.deploymentProgress", "extracting"),
        ("system.node.deploymentProgress", "starting"),
        ("system.node.containerEvent", "started"),
        ("system.node.deploymentProgress", "starting"),
        ("system.node.deploymentProgress", "running"),
        ("system.node.stopContainer", ""),
        ("system.node.containerEvent", "stopped"),
    ]
    acknowledged = {record.value["requestId"] for record in records if record.type == "system.node.commandAck"}
    assert {told[0].value["requestId"], told[-2].value["requestId"]} <= acknowledged
    for record in [*mine, imported, *told]:
        record.check()
    assert len({record.headers["ce_id"] for record in records}) == len(records)


def about(record: Record, deployment: dict[str, str]) -> bool:
    """Whether a node's event is about the deployment or its container; what it acknowledges is left aside."""
    value = record.value
    named = deployment["deploymentId"] in {value.get("deploymentId"), value.get("jobId")}
    return named or value.get("containerId") == deployment["containerId"]


def what(record: Record) -> str:
    return str(record.value.get("event") or record.value.get("status") or "")


def without_repetition(records: list[Record]) -> list[Record]:
    """Progress within a phase is told as often as it moves."""
    pairs = zip([None, *records], records, strict=False)
    return [each for before, each in pairs if before is None or (before.type, what(before)) != (each.type, what(each))]
