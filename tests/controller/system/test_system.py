"""The platform says how it is, counts what the caller sees, and tells everybody something once."""

import re
from datetime import timedelta

import grpc
import pytest
from aiops.system.v1 import system_service_pb2 as pb
from sqlalchemy import update

from controller.deployments.workload import WorkloadState
from controller.encodings import EVENTS
from controller.nodes.model import FleetGuard
from controller.system.model import HealthLevel
from controller.system.service import System
from controller.work import UnitOfWork
from mesh.events.outbox import outbox
from mesh.identity import SYSTEM
from mesh.loops import Wake
from mesh.sql.database import Database
from stack.ports import free_port
from tests.fixtures.iam import refusal
from tests.fixtures.registry import ADMIN, EDITOR, STRANGER, Rooms, gpu

HEALTHY, DEGRADED, UNHEALTHY = (
    pb.GetHealthResponse.healthy,
    pb.GetHealthResponse.degraded,
    pb.GetHealthResponse.unhealthy,
)


async def health(rooms: Rooms) -> tuple[int, dict[str, tuple[int, str]]]:
    answer = await rooms.system.GetHealth(pb.GetHealthRequest())
    assert answer.version == "1.2.3"
    assert answer.HasField("checked_at")
    return answer.status, {part.name: (part.status, part.message) for part in answer.components}


async def test_anybody_may_ask_how_the_platform_is(rooms: Rooms) -> None:
    status, parts = await health(rooms)
    assert status == HEALTHY
    assert {name: level for name, (level, _) in parts.items()} == dict.fromkeys(
        ["database", "events", "nodes"], HEALTHY
    )


async def test_a_node_that_is_away_degrades_the_platform(rooms: Rooms) -> None:
    await rooms.join("node-1")
    lost = await rooms.join("node-2")
    assert (await health(rooms))[0] == HEALTHY
    await rooms.lose(lost)
    status, parts = await health(rooms)
    level, message = parts["nodes"]
    assert (status, level) == (DEGRADED, DEGRADED)
    assert re.fullmatch(r"1 node is online; 1 node is offline, not heard of for -?\d+ s", message)


async def test_a_node_that_never_connected_is_awaited_and_not_missed(rooms: Rooms) -> None:
    await rooms.join("node-1")
    await rooms.register("node-2")
    status, parts = await health(rooms)
    assert (status, parts["nodes"]) == (
        HEALTHY,
        (HEALTHY, "1 node is online; 1 registered and never connected: is the agent started?"),
    )


async def test_health_is_as_fresh_as_the_question(rooms: Rooms) -> None:
    node = await rooms.join("node-1")
    await rooms.lose(node)
    assert (await health(rooms))[0] == DEGRADED
    await rooms.greet(node)
    assert (await health(rooms))[0] == HEALTHY


async def test_nodes_that_fell_silent_together_degrade_the_platform_and_it_says_what_it_makes_of_that(
    rooms: Rooms,
) -> None:
    for number in range(4):
        await rooms.join(f"node-{number}")
    async with rooms.unit_of_work(SYSTEM) as work:
        assert await work.nodes.guard(FleetGuard(3, 4, rooms.clock.now()))
        assert not await work.nodes.guard(FleetGuard(4, 4, rooms.clock.now()))
        await work.commit()
    level, message = (await health(rooms))[1]["nodes"]
    assert level == DEGRADED
    assert message.startswith("3 of 4 nodes fell silent together")
    async with rooms.unit_of_work(SYSTEM) as work:
        assert await work.nodes.guard(None)
        assert not await work.nodes.guard(None)
        await work.commit()
    assert (await health(rooms))[1]["nodes"][0] == HEALTHY


async def test_events_that_nobody_takes_degrade_the_platform_and_say_why(rooms: Rooms) -> None:
    await rooms.import_model("tiny")
    assert (await health(rooms))[0] == HEALTHY
    async with rooms.database.writing(SYSTEM) as connection:
        old = outbox.c.created_at - timedelta(minutes=5)
        await connection.execute(update(outbox).values(created_at=old, last_error="the broker is away"))
        await connection.commit()
    status, parts = await health(rooms)
    assert status == DEGRADED
    assert "1 events wait" in parts["events"][1]
    assert "the broker is away" in parts["events"][1]


async def test_without_its_database_the_platform_is_unhealthy_and_says_so(rooms: Rooms) -> None:
    away = Database(f"postgresql+asyncpg://nobody@127.0.0.1:{free_port()}/nothing")
    health = await System(UnitOfWork(away, EVENTS, rooms.clock, Wake()), rooms.clock).health()
    await away.dispose()
    assert health.level is HealthLevel.UNHEALTHY
    assert {part.name: part.level for part in health.components} == {
        "database": HealthLevel.UNHEALTHY,
        "events": HealthLevel.DEGRADED,
        "nodes": HealthLevel.DEGRADED,
    }


async def test_figures_count_what_the_caller_sees(rooms: Rooms) -> None:
    await rooms.join("node-1", gpus=(gpu("0"), gpu("1")), engines=("vllm",))
    await rooms.lose(await rooms.join("node-2"))
    await rooms.join("node-3", org="org-b")
    await rooms.import_model("tiny")
    await rooms.import_model("tiny", by=STRANGER)
    await rooms.report(await rooms.deploy(), state=WorkloadState.RUNNING)
    await rooms.deploy()
    await rooms.stop((await rooms.deploy()).deployment_id)
    mine = await rooms.system.GetStats(pb.GetStatsRequest(), metadata=EDITOR)
    assert (mine.node_count, mine.nodes_online, mine.gpu_count, mine.model_count) == (2, 1, 2, 1)
    assert (mine.deployment_count, mine.deployments_running) == (2, 1)
    assert mine.outbox_backlog == len(await rooms.events())
    theirs = await rooms.system.GetStats(pb.GetStatsRequest(), metadata=STRANGER)
    assert (theirs.node_count, theirs.model_count, theirs.deployment_count) == (1, 1, 0)
    everything = await rooms.system.GetStats(pb.GetStatsRequest(), metadata=ADMIN)
    assert (everything.node_count, everything.model_count, everything.deployment_count) == (3, 2, 2)


async def test_an_announcement_is_made_once_for_a_request_id(rooms: Rooms) -> None:
    request = pb.BroadcastRequest(message="maintenance at noon", severity="high", request_id="once")
    for _ in range(2):
        await rooms.system.Broadcast(request, metadata=ADMIN)
    (event,) = await rooms.events("system.broadcast")
    assert (event["type"], event["message"], event["severity"]) == ("system.broadcast", request.message, "high")
    request.message = "something else"
    assert (await refusal(rooms.system.Broadcast(request, metadata=ADMIN))).reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(("message", "severity"), [("", "high"), ("hello", "urgent"), ("x" * 4097, "low")])
async def test_an_announcement_has_words_and_a_known_severity(rooms: Rooms, message: str, severity: str) -> None:
    request = pb.BroadcastRequest(message=message, severity=severity)
    error = await refusal(rooms.system.Broadcast(request, metadata=ADMIN))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    refused = await refusal(rooms.system.Broadcast(request, metadata=EDITOR))
    assert refused.code is grpc.StatusCode.PERMISSION_DENIED
