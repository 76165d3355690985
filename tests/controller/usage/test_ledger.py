"""The ledger has each request once, adds it up for whoever may see it, and forgets single requests in the end."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiops.deployments.v1 import deployment_service_pb2 as deployments_pb
from aiops.usage.v1 import usage_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from controller.deployments.model import DeploymentId
from controller.usage.model import RequestUsage, amounts_of, by_account
from mesh.identity import OrgId
from tests.fixtures.iam import refusal
from tests.fixtures.registry import ADMIN, EDITOR, STRANGER, Metadata, Rooms, gpu

NOON = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
Groups = pb.ListUsageRequest


def request(number: int = 1, **more: Any) -> RequestUsage:
    """A chat of 100 ms with 10 tokens in and 5 out."""
    usual = RequestUsage(
        usage_id=f"u-{number}",
        org_id=OrgId("org-a"),
        user_id="user-1",
        api_key_id="",
        model="tiny",
        deployment_id=DeploymentId("dep-1"),
        endpoint="/v1/chat/completions",
        request_id=f"r-{number}",
        started_at=NOON,
        duration_ms=100,
        first_byte_ms=90,
        status=200,
        streamed=False,
        counted=True,
        input_tokens=10,
        output_tokens=5,
        cached_tokens=4,
        request_bytes=50,
        response_bytes=200,
        attempts=1,
        flags="",
    )
    return replace(usual, **more)


def moment(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


async def sums(
    rooms: Rooms, *groups: Groups.Group.ValueType, by: Metadata = EDITOR, **wanted: Any
) -> list[pb.UsageSum]:
    asked = pb.ListUsageRequest(filter=pb.UsageFilter(**wanted), group_by=groups)
    return list((await rooms.usage.ListUsage(asked, metadata=by)).sums)


async def test_what_is_told_twice_counts_once(rooms: Rooms) -> None:
    assert await rooms.ledger.enter([request(1), request(2), request(1)]) == 2
    assert await rooms.ledger.enter([request(2), request(3)]) == 1
    (total,) = await sums(rooms)
    assert (total.requests, total.counted, total.failed) == (3, 3, 0)
    assert (total.input_tokens, total.output_tokens, total.cached_tokens) == (30, 15, 12)
    assert (total.avg_duration_ms, total.avg_first_byte_ms) == (100, 0)


async def test_streams_say_how_soon_and_how_fast_tokens_came(rooms: Rooms) -> None:
    stream = request(1, streamed=True, duration_ms=500, first_byte_ms=100, output_tokens=5)
    await rooms.ledger.enter([stream, request(2, duration_ms=1000)])
    (total,) = await sums(rooms)
    assert (total.avg_first_byte_ms, total.avg_token_ms) == (100, 100)


async def test_sums_are_grouped_newest_first(rooms: Rooms) -> None:
    later = NOON + timedelta(hours=15)
    await rooms.ledger.enter(
        [
            request(1, user_id="ann", api_key_id="key-1"),
            request(2, user_id="bob", model="large", status=503),
            request(3, user_id="ann", started_at=later),
        ]
    )
    by_day = await sums(rooms, Groups.day, Groups.user)
    assert [(each.period.ToDatetime().day, each.user_id, each.requests) for each in by_day] == [
        (2, "ann", 1),
        (1, "ann", 1),
        (1, "bob", 1),
    ]
    by_hour = await sums(rooms, Groups.hour)
    assert [each.period.ToDatetime(UTC) for each in by_hour] == [later.replace(minute=0), NOON.replace(minute=0)]
    assert {each.api_key_id: each.requests for each in await sums(rooms, Groups.key)} == {"": 2, "key-1": 1}
    assert {each.model: each.failed for each in await sums(rooms, Groups.model)} == {"large": 1, "tiny": 0}
    assert {each.org_id for each in await sums(rooms, Groups.organization)} == {"org-a"}
    assert [each.deployment_id for each in await sums(rooms, Groups.deployment)] == ["dep-1"]


async def test_sums_and_records_are_narrowed(rooms: Rooms) -> None:
    await rooms.ledger.enter([request(1), request(2, model="large"), request(3, started_at=NOON - timedelta(days=2))])
    assert [each.requests for each in await sums(rooms, model="large")] == [1]
    assert [each.requests for each in await sums(rooms, since=moment(NOON), until=moment(NOON + timedelta(1)))] == [2]
    asked = pb.ListUsageRecordsRequest(filter=pb.UsageFilter(until=moment(NOON)))
    records = (await rooms.usage.ListUsageRecords(asked, metadata=EDITOR)).records
    assert [each.usage_id for each in records] == ["u-3"]


async def test_an_empty_ledger_has_one_sum_of_nothing_and_no_groups(rooms: Rooms) -> None:
    assert [each.requests for each in await sums(rooms)] == [0]
    assert await sums(rooms, Groups.model) == []


async def test_an_organisation_sees_its_own_and_the_universe_all(rooms: Rooms) -> None:
    await rooms.ledger.enter([request(1), request(2, org_id=OrgId("org-b"))])
    assert [each.requests for each in await sums(rooms, by=STRANGER)] == [1]
    assert {each.org_id for each in await sums(rooms, Groups.organization, by=ADMIN)} == {"org-a", "org-b"}
    records = await rooms.usage.ListUsageRecords(pb.ListUsageRecordsRequest(), metadata=STRANGER)
    assert [each.usage_id for each in records.records] == ["u-2"]


async def test_pages_of_both_lists_come_to_an_end(rooms: Rooms) -> None:
    await rooms.ledger.enter([request(number, user_id=f"user-{number:02}") for number in range(25)])
    seen, token = [], ""
    while True:
        asked = pb.ListUsageRequest(group_by=[Groups.user], page_size=10, page_token=token)
        page = await rooms.usage.ListUsage(asked, metadata=EDITOR)
        seen += [each.user_id for each in page.sums]
        if not (token := page.next_page_token):
            break
    assert seen == [f"user-{number:02}" for number in range(25)]
    records, token = [], ""
    while True:
        asked_records = pb.ListUsageRecordsRequest(page_size=10, page_token=token)
        rows = await rooms.usage.ListUsageRecords(asked_records, metadata=EDITOR)
        records += [each.usage_id for each in rows.records]
        if not (token := rows.next_page_token):
            break
    assert sorted(records) == sorted(f"u-{number}" for number in range(25))


@pytest.mark.parametrize("token", ["nonsense", "W10", "WyJ4IiwgMV0"])
async def test_a_token_of_another_list_is_refused(rooms: Rooms, token: str) -> None:
    error = await refusal(rooms.usage.ListUsage(pb.ListUsageRequest(page_token=token), metadata=EDITOR))
    assert error.reason == "INVALID_PAGE_TOKEN"


async def test_a_span_that_ends_before_it_begins_is_refused(rooms: Rooms) -> None:
    error = await refusal(sums(rooms, since=moment(NOON), until=moment(NOON - timedelta(1))))
    assert [each.field for each in error.violations] == ["filter.until"]


async def test_a_deployment_says_how_many_requests_it_answered_and_how_fast(rooms: Rooms) -> None:
    await rooms.join("node-1", gpus=(gpu("0"), gpu("1")), engines=("vllm", "transformers"))
    await rooms.import_model()
    deployment = await rooms.deploy(gpu_count=2)
    mine = DeploymentId(deployment.deployment_id)
    await rooms.ledger.enter([request(1, deployment_id=mine), request(2, deployment_id=mine, duration_ms=300)])
    shown = await rooms.get(mine)
    assert (shown.request_count, shown.avg_latency_ms) == (2, 200)
    assert shown.last_request_at.ToDatetime(UTC) == NOON + timedelta(milliseconds=300)
    listed = await rooms.deployments.ListDeployments(deployments_pb.ListDeploymentsRequest(), metadata=EDITOR)
    assert [each.request_count for each in listed.deployments] == [2]
    asked = deployments_pb.GetDeploymentMetricsRequest(deployment_id=mine)
    metrics = (await rooms.deployments.GetDeploymentMetrics(asked, metadata=EDITOR)).metrics
    assert (metrics.request_count, metrics.avg_latency_ms) == (2, 200)
    (total,) = await sums(rooms, deployment_id=mine)
    assert total.gpu_seconds == pytest.approx(2 * 0.4)


async def test_old_requests_go_and_their_sums_stay(rooms: Rooms) -> None:
    now = rooms.clock.now()
    await rooms.ledger.enter([request(1, started_at=now - timedelta(days=91)), request(2, started_at=now)])
    assert await rooms.ledger.keep_house() is not None
    assert await rooms.ledger.keep_house() is None
    records = await rooms.usage.ListUsageRecords(pb.ListUsageRecordsRequest(), metadata=EDITOR)
    assert [each.usage_id for each in records.records] == ["u-2"]
    assert [each.requests for each in await sums(rooms)] == [2]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ann", "bob"]),
            st.booleans(),
            st.integers(0, 599),
            st.integers(0, 50),
            st.floats(0, 1e6),
            st.integers(0, 5),
        )
    )
)
def test_accounts_add_up_to_everything(chosen: list[tuple[str, bool, int, int, float, int]]) -> None:
    used = [
        request(
            number,
            user_id=user,
            streamed=streamed,
            status=status,
            output_tokens=tokens,
            duration_ms=duration,
            started_at=NOON + timedelta(hours=hours),
        )
        for number, (user, streamed, status, tokens, duration, hours) in enumerate(chosen)
    ]
    parts, whole = by_account(used).values(), amounts_of(used)
    for name in ("requests", "failed", "counted", "streams", "gaps", "output_tokens"):
        assert sum(getattr(part, name) for part in parts) == getattr(whole, name)
    assert sum(part.duration_ms for part in parts) == pytest.approx(whole.duration_ms)
    assert sum(part.tokens_ms for part in parts) == pytest.approx(whole.tokens_ms)
