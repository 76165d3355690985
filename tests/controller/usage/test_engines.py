"""What engines counted adds up whatever is lost, comes twice or late, and begins anew; and stands beside the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from aiops.usage.v1 import usage_service_pb2 as pb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.deployments.model import DeploymentId
from controller.nodes.counters import CounterMemory, EngineCount, counts_of
from controller.nodes.heartbeats import Beat
from controller.nodes.model import Container, EngineLoad, Gauges, NodeId
from controller.usage.engines import Counted, Counters, grown
from mesh.identity import SYSTEM
from tests.controller.usage.test_ledger import moment, request
from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, STRANGER, Metadata, Rooms

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MIDNIGHT = NOON.replace(hour=0)
DIFFERENCES = {"input_tokens_difference", "output_tokens_difference"}
OF_ENGINES = {
    *("since", "engine_requests", "engine_input_tokens", "engine_output_tokens", "requests_difference"),
    *DIFFERENCES,
}
LOAD = EngineLoad(prompt_tokens=100, generated_tokens=40, requests=7, counts_tokens=True, counts_requests=True)


@dataclass(frozen=True, slots=True)
class Life:
    """One engine from its start to its end: what it had counted at each heartbeat, and whether its deployment moved."""

    moved: bool
    heard: tuple[int, ...]


LIVES = st.lists(
    st.builds(
        Life,
        moved=st.booleans(),
        heard=st.lists(st.integers(0, 50), min_size=1, max_size=5).map(lambda steps: tuple(sums(steps))),
    ),
    min_size=1,
    max_size=6,
)


def sums(steps: Sequence[int]) -> list[int]:
    return [sum(steps[: end + 1]) for end in range(len(steps))]


def total(told: Sequence[Counters]) -> int:
    """What all of this adds up to when it is heard in this order."""
    last, added = None, 0
    for each in told:
        more = grown(last, each, MIDNIGHT)
        if more is not None:
            last, added = each, added + (more.output_tokens or 0)
    return added


def told_of(lives: Sequence[Life]) -> list[Counters]:
    """The heartbeats of engines that followed each other."""
    told, epoch = list[Counters](), 1
    for number, life in enumerate(lives):
        epoch += life.moved
        born = NOON + timedelta(minutes=number)
        told += [Counters(epoch, born, Counted(output_tokens=each)) for each in life.heard]
    return told


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(LIVES, st.data())
def test_each_engine_counts_once_whatever_comes_twice_or_late_or_not_at_all(
    lives: list[Life], data: st.DataObject
) -> None:
    told = told_of(lives)
    assert total(told) == sum(life.heard[-1] for life in lives)
    # A heartbeat that is lost between others is made up for by the next of the same engine.
    last_of = {(each.epoch, each.started_at): place for place, each in enumerate(told)}
    kept = data.draw(st.sets(st.sampled_from(range(len(told))))) | set(last_of.values())
    some = [each for place, each in enumerate(told) if place in kept]
    assert total(some) == total(told)
    again = [each for each in some for _ in range(data.draw(st.integers(1, 3)))]
    assert total(again) == total(told)
    # What comes late of an earlier placement is passed over.
    late = list(again)
    for place in range(len(again) - 1, -1, -1):
        earlier = [each for each in again[:place] if each.epoch < again[place].epoch]
        if earlier:
            late[place + 1 : place + 1] = data.draw(st.lists(st.sampled_from(earlier), max_size=2))
    assert total(late) == total(told)


@given(st.lists(st.integers(0, 50), min_size=1))
def test_a_counter_that_falls_begins_anew_where_nobody_says_when_it_started(heard: list[int]) -> None:
    told = [Counters(1, None, Counted(output_tokens=each)) for each in heard]
    expected = heard[0] + sum(new - old if new >= old else new for old, new in pairwise(heard))
    assert total(told) == expected


def test_one_counter_that_falls_is_a_new_engine_for_all_of_them() -> None:
    last = Counters(1, NOON, Counted(10, 10, 1))
    assert grown(last, Counters(1, NOON, Counted(12, 3, 1)), MIDNIGHT) == Counted(12, 3, 1)
    assert grown(last, Counters(1, NOON, Counted(12, None, 1)), MIDNIGHT) == Counted(2, None, 0)


def test_an_engine_of_yesterday_that_nobody_heard_counts_from_now_on() -> None:
    said = Counters(1, MIDNIGHT - timedelta(seconds=1), Counted(10, 20, 3))
    assert grown(None, said, MIDNIGHT) == Counted(0, 0, 0)
    assert grown(None, replace(said, started_at=MIDNIGHT), MIDNIGHT) == said.counted


def test_what_was_written_is_written_again_only_on_another_day_or_when_it_moved() -> None:
    memory, node_id = CounterMemory(), NodeId("node-1")
    counts = counts_of(node_id, [Container("c-1", workload_id="dep-1", engine_load=LOAD)])
    assert [(each.input_tokens, each.output_tokens, each.requests) for each in counts] == [(100, 40, 7)]
    assert memory.new([(node_id, counts)], NOON) == counts
    memory.keep([(node_id, counts)], NOON)
    assert memory.new([(node_id, counts)], NOON) == []
    assert memory.new([(node_id, counts)], NOON + timedelta(days=1)) == counts
    moved = [replace(counts[0], output_tokens=41)]
    assert memory.new([(node_id, moved)], NOON) == moved
    memory.forget(node_id)
    assert memory.new([(node_id, counts)], NOON) == counts


@pytest.mark.parametrize("load", [None, EngineLoad(), replace(LOAD, prompt_tokens=-1), replace(LOAD, requests=1e300)])
def test_what_counts_nothing_or_nonsense_is_passed_over(load: EngineLoad | None) -> None:
    assert counts_of(NodeId("node-1"), [Container("c-1", workload_id="dep-1", engine_load=load)]) == []


async def listed(rooms: Rooms, by: Metadata = EDITOR, **wanted: Any) -> list[pb.ReconciledDay]:
    asked = pb.ListReconciliationRequest(**wanted)
    return list((await rooms.usage.ListReconciliation(asked, metadata=by)).days)


async def deployed(rooms: Rooms) -> EngineCount:
    """A deployment's engine that has counted some already."""
    await rooms.join("node-1")
    await rooms.import_model()
    made = await rooms.deploy()
    return EngineCount(NodeId(made.node_id), made.deployment_id, made.epoch, NOON, 100, 40, 7)


async def count(rooms: Rooms, *said: EngineCount, now: datetime = NOON) -> None:
    async with rooms.unit_of_work(SYSTEM) as work:
        await work.engine_counters.count(said, now)
        await work.commit()


async def test_the_ledger_stands_beside_what_the_engine_counted_on_each_day(rooms: Rooms) -> None:
    first = await deployed(rooms)
    mine = DeploymentId(first.deployment_id)
    await rooms.ledger.enter([request(number, deployment_id=mine, started_at=NOON) for number in range(3)])
    grew = replace(first, input_tokens=130, output_tokens=55, requests=10)
    again = replace(first, started_at=NOON + timedelta(hours=1), input_tokens=20, output_tokens=5, requests=1)
    await count(rooms, first, first, grew)
    await count(rooms, grew, now=NOON + timedelta(minutes=1))
    await count(rooms, again, now=NOON + timedelta(days=1))
    later, day = await listed(rooms)
    assert (day.day.ToDatetime(UTC), day.since.ToDatetime(UTC)) == (MIDNIGHT, NOON)
    assert (day.ledger_requests, day.ledger_counted, day.ledger_input_tokens, day.ledger_output_tokens) == (
        3,
        3,
        30,
        15,
    )
    assert (day.engine_requests, day.engine_input_tokens, day.engine_output_tokens) == (10, 130, 55)
    differences = (day.requests_difference, day.input_tokens_difference, day.output_tokens_difference)
    assert differences == (7, 100, 40)
    assert (later.ledger_requests, later.engine_requests, later.engine_output_tokens) == (0, 1, 5)
    assert [each.day for each in await listed(rooms, since=moment(NOON), until=moment(NOON + timedelta(1)))] == [
        later.day,
        day.day,
    ]
    assert [each.day for each in await listed(rooms, until=moment(NOON))] == [day.day]
    assert await listed(rooms, deployment_id="dep-none") == []
    assert await listed(rooms, by=STRANGER) == []


async def test_what_an_engine_does_not_count_is_not_there(rooms: Rooms) -> None:
    first = await deployed(rooms)
    await count(rooms, replace(first, requests=None))
    await rooms.ledger.enter([request(1, deployment_id=DeploymentId("dep-0"), started_at=NOON)])
    silent, half = sorted(await listed(rooms), key=lambda each: each.HasField("since"))
    assert {field.name for field, _ in silent.ListFields()} & OF_ENGINES == set()
    counted = {"since", "engine_input_tokens", "engine_output_tokens", *DIFFERENCES}
    assert {field.name for field, _ in half.ListFields()} & OF_ENGINES == counted


async def test_only_the_node_that_a_deployment_is_on_counts_for_it(rooms: Rooms) -> None:
    first = await deployed(rooms)
    other = await rooms.join("node-2")
    await count(rooms, replace(first, node_id=other), replace(first, epoch=first.epoch + 1))
    await count(rooms, replace(first, deployment_id="dep-none"))
    assert await listed(rooms) == []


async def test_pages_of_days_come_to_an_end(rooms: Rooms) -> None:
    first = await deployed(rooms)
    for day in range(5):
        await count(rooms, first, now=NOON + timedelta(days=day))
    seen, token = [], ""
    while True:
        asked = pb.ListReconciliationRequest(page_size=2, page_token=token)
        page = await rooms.usage.ListReconciliation(asked, metadata=EDITOR)
        seen += [(each.day.ToDatetime(UTC) - MIDNIGHT).days for each in page.days]
        if not (token := page.next_page_token):
            break
    assert seen == [4, 3, 2, 1, 0]


async def test_a_span_of_days_that_ends_before_it_begins_is_refused(rooms: Rooms) -> None:
    error = await refusal(listed(rooms, since=moment(NOON), until=moment(NOON - timedelta(1))))
    assert [each.field for each in error.violations] == ["until"]


async def test_heartbeats_count_once_however_often_they_say_the_same(rooms: Rooms) -> None:
    first = await deployed(rooms)
    container = Container("c-1", workload_id=first.deployment_id, epoch=first.epoch, engine_load=LOAD)
    more = replace(container, engine_load=replace(LOAD, generated_tokens=45))
    for said in (container, container, more, more):
        beat = Beat(first.node_id, rooms.sessions[first.node_id], Gauges(), (said,), 0, tell=False)
        await rooms.liveness.heartbeat(beat)
    # A new session says it all again.
    await rooms.greet(first.node_id)
    await rooms.liveness.heartbeat(replace(beat, session_epoch=rooms.sessions[first.node_id]))
    days = await listed(rooms)
    assert sum(each.engine_output_tokens for each in days) == 45
    assert sum(each.engine_requests for each in days) == 7
