"""Which instance answers, through a real Envoy: that of a session or prefix, or the one that is less busy."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from aiops.routing.v1 import route_pb2
from aiops.routing.v1 import routing_service_pb2 as routing

from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.routes import policy, target
from tests.fixtures.edge import Edge

pytestmark = pytest.mark.asyncio(loop_scope="module")
Balancing = route_pb2.Balancing


def affine(name: str, *engines: Engine, affinity: "Balancing.Affinity.ValueType", **more: Any) -> routing.PolicyRoute:
    balancing = Balancing(affinity=affinity, **{"prefix_bytes": 64, "overload_percent": 150, **more})
    return policy(name, target(*engines, name="only", weight=1), balancing=balancing)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines(edge: Edge) -> AsyncIterator[list[Engine]]:
    """Three engines behind a route by session and one by prefix."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(running_engine(name)) for name in ("a", "b", "c")]
        for engine in found:
            engine.release.set()
        await publish(edge, found)
        yield found


async def publish(edge: Edge, engines: list[Engine]) -> None:
    by_session = affine("by-session", *engines, affinity=Balancing.session)
    await edge.route(policies=[by_session, affine("by-prefix", *engines, affinity=Balancing.prefix)])
    for name in ("by-session", "by-prefix"):
        await edge.until_chat(200, name, seconds=30)

    async def known() -> bool:
        lines = (await edge.admin("/clusters")).splitlines()
        return sum("target/route-by-" in line and line.endswith("::rq_active::0") for line in lines) == 2 * len(engines)

    await edge.until(known, seconds=20)


async def served_by(edge: Edge, name: str, session: str = "", text: str = "hi", **more: Any) -> str:
    headers = edge.bearer() | ({"x-session-id": session} if session else {})
    answer = await edge.chat(name, text, headers=headers, **more)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["served_by"])


async def conversation(edge: Edge, first: str, *later: str) -> str:
    messages = [{"role": "user", "content": text} for text in (first, *later)]
    body = {"model": "by-prefix", "messages": messages}
    answer = await edge.client.post("/v1/chat/completions", json=body, headers=edge.bearer())
    return str(answer.json()["served_by"])


async def test_a_session_stays_with_its_instance_and_sessions_spread(edge: Edge, engines: list[Engine]) -> None:
    sessions = [f"session-{number}" for number in range(30)]
    first = {session: await served_by(edge, "by-session", session) for session in sessions}
    assert set(first.values()) == {"a", "b", "c"}
    for session in sessions:
        assert await served_by(edge, "by-session", session, "something else " * 40) == first[session]


async def test_bodies_name_sessions_too(edge: Edge, engines: list[Engine]) -> None:
    for member in ("user", "prompt_cache_key"):
        named = [{member: f"somebody-{number}"} for number in range(12)]
        first = [await served_by(edge, "by-session", **each) for each in named]
        assert len(set(first)) > 1
        assert [await served_by(edge, "by-session", text="again", **each) for each in named] == first


async def test_conversations_that_begin_alike_share_an_instance(edge: Edge, engines: list[Engine]) -> None:
    beginnings = [
        f"{number} speaks about something that is long enough to be cut off before it ends" for number in range(12)
    ]
    first = [await conversation(edge, each) for each in beginnings]
    assert len(set(first)) > 1
    assert [await conversation(edge, each + " elsewhere", "and", "on") for each in beginnings] == first


async def test_the_sessions_of_a_removed_instance_move_and_come_back(edge: Edge, engines: list[Engine]) -> None:
    sessions = [f"moving-{number}" for number in range(30)]
    before = {session: await served_by(edge, "by-session", session) for session in sessions}
    await publish(edge, engines[:2])
    after = {session: await served_by(edge, "by-session", session) for session in sessions}
    assert set(after.values()) == {"a", "b"}
    left = [each for each in sessions if before[each] != "c"]
    # Few move besides: the ring is cut anew, a sixth of it goes to the other one.
    assert sum(after[each] == before[each] for each in left) >= len(left) / 2
    await publish(edge, engines)
    assert {session: await served_by(edge, "by-session", session) for session in sessions} == before


async def test_an_instance_with_too_many_is_passed_over(edge: Edge, engines: list[Engine]) -> None:
    for engine in engines:
        engine.release.clear()
    held = [asyncio.ensure_future(served_by(edge, "by-session", "one", "hold")) for _ in range(12)]

    async def all_there() -> bool:
        return sum(b'"hold"' in seen.body for engine in engines for seen in engine.seen) == 12

    await edge.until(all_there, seconds=20)
    for engine in engines:
        engine.release.set()
    served = Counter(await asyncio.gather(*held))
    # Half as much again as the mean of four, and what workers of Envoy send at the same moment.
    assert max(served.values()) <= 8


async def test_a_busy_instance_gets_the_smaller_share(edge: Edge, engines: list[Engine]) -> None:
    by_load = target(*engines[:2], name="only", weight=1)
    for instance, weight in zip(by_load.instances, (10, 1), strict=True):
        instance.load_weight = weight
    await edge.route(policies=[policy("by-load", by_load, balancing=Balancing(by_load=True))])
    await edge.until_chat(200, "by-load", seconds=30)
    served = Counter([await served_by(edge, "by-load") for _ in range(66)])
    assert served["a"] > 3 * served["b"] > 0
