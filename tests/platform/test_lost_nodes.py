"""An agent that dies leaves its engine serving; a machine that stands still is left out until it moves again."""

import os
import signal

import httpx
import pytest

from stack.processes import Process
from stack.service import State
from tests.fakes.eventually import eventually
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.platform.chats import chatting
from tests.platform.outages import frozen, pid_of
from tests.platform.served import Served, fetched, question

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)

LEASE_S = 15.0
MARGIN_S = 10.0
# Routes are gone with the lease; the rest is what a busy machine takes to say so.
GONE_S = 15.0
PATIENCE_S = 5.0
RETURN_S = 60.0
NODE = "node-2"


async def test_a_killed_agent_finds_its_engine_again(served: Served, rest: httpx.AsyncClient) -> None:
    replica, agent = served.replicas[NODE], pid_of(served.platform, NODE)
    engine = Process.of(int(replica["containerId"]))
    assert engine is not None

    async def is_back() -> bool:
        report = served.platform.state.service(NODE)
        return report.state == State.HEALTHY and report.pid != agent

    async with chatting(rest, served.model) as chats:
        os.kill(agent, signal.SIGKILL)
        await eventually(is_back, RETURN_S)
        await chats.more(20)
    assert chats.failed == []
    assert engine.alive
    containers = (await fetched(rest, f"/nodes/{served.nodes[NODE]}/containers"))["containers"]
    (mine,) = [each for each in containers if each["workloadId"] == replica["deploymentId"]]
    assert mine["containerId"] == replica["containerId"]
    now = await fetched(rest, f"/deployments/{replica['deploymentId']}")
    assert (now["status"], now["epoch"], now["restarts"]) == ("running", replica["epoch"], replica["restarts"])
    assert "/v1/chat/completions" in (await fetched(rest, f"/deployments/{replica['deploymentId']}/logs"))["logs"]


async def test_a_frozen_machine_is_left_out_of_the_routes_until_it_moves_again(
    served: Served, rest: httpx.AsyncClient
) -> None:
    replica, body = served.replicas[NODE], question(served.model)

    async def is_offline() -> bool:
        return bool((await fetched(rest, f"/nodes/{served.nodes[NODE]}"))["status"] == "offline")

    async def is_answered(status: int) -> bool:
        try:
            answer = await rest.post(replica["endpoint"], json=body, timeout=PATIENCE_S)
        except httpx.TimeoutException:
            # It went to the machine that stands still.
            return False
        return answer.status_code == status

    # Whoever the machine was serving waits for it, longer than others would.
    async with served.client(timeout_s=120) as caught, chatting(caught, served.model, clients=3) as chats:
        await chats.more(3)
        with frozen(pid_of(served.platform, NODE), int(replica["containerId"])):
            await eventually(is_offline, LEASE_S + MARGIN_S)
            await eventually(lambda: is_answered(404), GONE_S)
            answers = [await rest.post("/v1/chat/completions", json=body) for _ in range(20)]
            assert {answer.status_code for answer in answers} == {200}
        await eventually(lambda: is_answered(200), RETURN_S)
        await chats.more(10)
    # A request that was on its way to the machine when it stopped may be lost, but its client is told.
    assert {answer.status for answer in chats.failed} <= {503}
    assert len(chats.failed) <= 3
