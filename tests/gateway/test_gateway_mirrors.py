"""Copies of requests reach a target that answers nobody: written for it, and counted as copies."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from aiops.routing.v1 import routing_service_pb2 as routing
from aiops.usage.v1.usage_events_pb2 import UsageRecorded

from gateway.usage.journal import path_in
from gateway.usage.record import record
from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.eventually import eventually
from tests.fakes.routes import outside, policy, target
from tests.fixtures.edge import ORG, Edge

pytestmark = pytest.mark.asyncio(loop_scope="module")


def copied(to: routing.PolicyTarget, percent: int = 100) -> routing.PolicyTarget:
    """The target, as one that gets copies."""
    to.weight, to.mirror_percent = 0, percent
    return to


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    async with running_engine("a") as engine:
        engine.release.set()
        yield engine


@pytest_asyncio.fixture(loop_scope="module")
async def shadow() -> AsyncIterator[Engine]:
    async with running_engine("shadow") as shadow:
        shadow.release.set()
        yield shadow


def told(edge: Edge, answer: httpx.Response) -> list[UsageRecorded]:
    """What the journal has of a request and of its copies."""
    lines = path_in(edge.home / "usage").read_bytes().replace(b"\0", b"").splitlines()
    every = [record(line, "u") for line in lines]
    return [used for used in every if used is not None and used.request_id == answer.headers["x-request-id"]]


async def test_a_copy_is_written_for_its_target_and_is_told_as_a_copy(
    edge: Edge, engine: Engine, shadow: Engine
) -> None:
    both = policy("shown", target(engine, weight=1), copied(target(shadow)))
    await edge.route(policies=[both])
    await edge.until_chat(200, "shown", seconds=30)
    answer = await edge.chat("shown", "hello", headers=edge.bearer(sub="user-7"))
    assert (answer.json()["served_by"], answer.headers["x-aiops-target"]) == ("a", "a")

    async def counted() -> bool:
        return len(told(edge, answer)) == 2

    await eventually(counted, 30)
    (own,) = (used for used in told(edge, answer) if not used.mirrored)
    (copy,) = (used for used in told(edge, answer) if used.mirrored)
    assert (own.target, own.intended_target, own.route_id) == ("a", "a", "route-shown")
    assert (copy.target, copy.intended_target, copy.route_id) == ("shadow", "shadow", "route-shown")
    assert (copy.org_id, copy.user_id, copy.model, copy.deployment_id) == (ORG, "user-7", "shown", "shadow")
    assert (copy.status, copy.input_tokens, copy.output_tokens) == (200, 3, 2)
    seen = shadow.seen[-1]
    assert json.loads(seen.body)["model"] == "shadow-model"
    assert json.loads(seen.body)["messages"] == [{"role": "user", "content": "hello"}]
    assert not [name for name in seen.headers if name.startswith("x-aiops-") and name != "x-aiops-call"]
    assert "authorization" not in seen.headers


async def test_what_becomes_of_a_copy_is_nothing_to_the_client(edge: Edge, engine: Engine) -> None:
    async with running_engine("bad") as bad:
        bad.silent = True
        gone = Engine("gone", port=1)
        targets = [copied(target(bad)), copied(target(gone)), copied(outside(bad.port, name="far"), 50)]
        await edge.route(policies=[policy("watched", target(engine, weight=1), *targets)])
        await edge.until_chat(200, "watched", seconds=30)
        for _ in range(5):
            answer = await edge.chat("watched", stream=True, text="one two")
            assert (answer.status_code, answer.text.count("data: ")) == (200, 3)
        await eventually(bad.arrived.wait, 30)
        bad.release.set()


async def test_a_target_of_no_percent_gets_no_copy(edge: Edge, engine: Engine, shadow: Engine) -> None:
    # A fallback that nothing fell back to, and one that gets copies beside it.
    await edge.route(
        policies=[policy("plain", target(engine, weight=1), target(shadow), fallbacks="shadow")],
    )
    await edge.until_chat(200, "plain", seconds=30)
    assert (await edge.chat("plain")).json()["served_by"] == "a"
    assert shadow.seen == []
