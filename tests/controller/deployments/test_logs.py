"""Logs are read from the node, in pages that miss and repeat nothing."""

import asyncio
from typing import Any

import grpc
import pytest
from aiops.deployments.v1 import deployment_pb2
from aiops.deployments.v1 import deployment_service_pb2 as pb

from controller.deployments.logs import PAGE_BYTES
from controller.deployments.workload import WorkloadState
from controller.nodes.model import NodeId
from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, Rooms


async def deployed(rooms: Rooms) -> deployment_pb2.Deployment:
    await rooms.join("node-1")
    await rooms.import_model("tiny")
    return await rooms.deploy()


async def page(
    rooms: Rooms, deployment: deployment_pb2.Deployment, token: str = "", lines: int = 0
) -> pb.GetDeploymentLogsResponse:
    request = pb.GetDeploymentLogsRequest(deployment_id=deployment.deployment_id, lines=lines, page_token=token)
    return await rooms.deployments.GetDeploymentLogs(request, metadata=EDITOR)


async def test_the_last_lines_then_what_is_written_after_them(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    log = rooms.node_logs.content
    log[deployment.deployment_id] = b"".join(b"line %d\n" % number for number in range(500))
    first = await page(rooms, deployment)
    assert first.logs.splitlines() == [f"line {number}" for number in range(400, 500)]
    assert first.end
    assert (await page(rooms, deployment, lines=3)).logs == "line 497\nline 498\nline 499\n"
    nothing = await page(rooms, deployment, first.next_page_token)
    assert (nothing.logs, nothing.end, nothing.next_page_token) == ("", True, first.next_page_token)
    log[deployment.deployment_id] += b"more\n"
    assert (await page(rooms, deployment, first.next_page_token)).logs == "more\n"


async def test_pages_never_cut_a_character_in_two(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    text = "ü€😀" * (PAGE_BYTES // 4)
    rooms.node_logs.content[deployment.deployment_id] = text.encode()
    read, token = "", "0"
    while True:
        answer = await page(rooms, deployment, token)
        read, token = read + answer.logs, answer.next_page_token
        if answer.end:
            break
    assert read == text


async def test_bytes_that_are_no_text_are_shown_as_such(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    rooms.node_logs.content[deployment.deployment_id] = b"a\xffb\n"
    assert (await page(rooms, deployment)).logs == "a\ufffdb\n"


@pytest.mark.parametrize("token", ["x", "-1", "1" * 19, "²"])
async def test_a_token_of_another_kind_is_refused(rooms: Rooms, token: str) -> None:
    error = await refusal(page(rooms, await deployed(rooms), token))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_a_node_that_is_away_answers_nothing_but_a_failure_keeps_its_end(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    rooms.node_logs.away.add(NodeId(deployment.node_id))
    error = await refusal(page(rooms, deployment))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NODE_UNREACHABLE")
    await rooms.report(deployment, state=WorkloadState.FAILED, error="no", log_tail="the end\n")
    answer = await page(rooms, deployment)
    assert (answer.logs, answer.end) == ("the end\n", True)
    assert (await page(rooms, deployment, answer.next_page_token)).logs == ""
    followed = [text async for text in follow(rooms, deployment)]
    assert followed == ["the end\n"]


async def test_a_log_that_the_node_lost_is_unavailable(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    rooms.node_logs.errors[deployment.deployment_id] = "there is no log file"
    error = await refusal(page(rooms, deployment))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "LOGS_UNAVAILABLE")
    assert "no log file" in error.message


def follow(rooms: Rooms, deployment: deployment_pb2.Deployment) -> Any:
    async def texts() -> Any:
        request = pb.FollowDeploymentLogsRequest(deployment_id=deployment.deployment_id)
        async for response in rooms.deployments.FollowDeploymentLogs(request, metadata=EDITOR):
            yield response.logs

    return texts()


async def test_following_ends_when_the_deployment_has_ended_and_its_log_is_read(rooms: Rooms) -> None:
    deployment = await deployed(rooms)
    log = rooms.node_logs.content
    log[deployment.deployment_id] = b"one\n"
    async with asyncio.timeout(10):
        texts = follow(rooms, deployment)
        assert await anext(texts) == "one\n"
        log[deployment.deployment_id] += b"two\n"
        assert await anext(texts) == "two\n"
        log[deployment.deployment_id] += b"three\n"
        await rooms.stop(deployment.deployment_id)
        assert [text async for text in texts] == ["three\n"]
