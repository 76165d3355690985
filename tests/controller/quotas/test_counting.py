"""What requests used is counted once for each quota that they fall under; whoever has nothing left is told of."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from aiops.quotas.v1 import quota_pb2
from aiops.quotas.v1 import quota_service_pb2 as pb
from aiops.quotas.v1.quota_service_pb2_grpc import SpentQuotaServiceStub
from hypothesis import given
from hypothesis import strategies as st

from controller.quotas.windows import Period
from controller.usage.model import RequestUsage
from controller.usage.prices import cost
from mesh.rpc.channel import open_channel
from tests.controller.quotas.test_quotas import OWNER, create
from tests.controller.usage.test_ledger import Groups, request, sums
from tests.fixtures.registry import EDITOR, ROUTER, Rooms

Quota = quota_pb2.Quota


def now_used(number: int, **more: Any) -> RequestUsage:
    """A request that has just ended."""
    return replace(request(number, started_at=datetime.now(UTC), duration_ms=0), **more)


async def used(rooms: Rooms, quota: quota_pb2.Quota) -> dict[str, str]:
    shown = await rooms.quotas.GetQuota(pb.GetQuotaRequest(quota_id=quota.quota_id), metadata=EDITOR)
    return {each.limit_name: each.used for each in shown.quota.windows}


async def spent(rooms: Rooms) -> list[pb.SpentQuota]:
    """Those who have nothing left now."""
    async with open_channel(rooms.address) as channel:
        call: Any = SpentQuotaServiceStub(channel).WatchSpentQuotas(pb.WatchSpentQuotasRequest(), metadata=ROUTER)
        message = await asyncio.wait_for(call.read(), 30)
        call.cancel()
        return list(message.spent)


async def test_each_quota_counts_what_falls_under_it_once(rooms: Rooms) -> None:
    limits = quota_pb2.Limits(
        requests_per_day=100, tokens_per_day=1000, budget=quota_pb2.Budget(amount="9", period=quota_pb2.Budget.total)
    )
    everything = await create(rooms, limits=limits)
    large = await create(rooms, limits=limits, model="large")
    priced = now_used(1, cost=Decimal("0.125"))
    await rooms.ledger.enter([priced, now_used(2, model="alias", route_name="large"), priced])
    await rooms.ledger.enter([priced, now_used(3, org_id="org-b"), now_used(4, mirrored=True)])
    assert await used(rooms, everything) == {"requests_per_day": "2", "tokens_per_day": "30", "budget": "0.125"}
    assert await used(rooms, large) == {"requests_per_day": "1", "tokens_per_day": "15", "budget": "0"}
    assert not await spent(rooms)


async def test_whoever_has_nothing_left_is_told_of_until_the_window_ends(rooms: Rooms) -> None:
    limits = quota_pb2.Limits(requests_per_day=2, tokens_per_day=1000)
    quota = await create(rooms, limits=limits)
    await rooms.ledger.enter([now_used(1)])
    assert not await spent(rooms)
    await rooms.ledger.enter([now_used(2), now_used(3)])
    (told,) = await spent(rooms)
    assert (told.org_id, told.subject, told.subject_id, told.budget) == ("org-a", Quota.organization, "org-a", False)
    window = Period.DAY.window(datetime.now(UTC))
    assert window.until is not None
    assert told.until == window.until.timestamp()
    assert "2 requests per day" in told.message
    assert quota.quota_id in told.message
    raised = pb.UpdateQuotaRequest(quota_id=quota.quota_id, limits=quota_pb2.Limits(requests_per_day=4))
    await rooms.quotas.UpdateQuota(raised, metadata=OWNER)
    assert not await spent(rooms)
    await rooms.ledger.enter([now_used(4)])
    assert len(await spent(rooms)) == 1
    await rooms.quotas.DeleteQuota(pb.DeleteQuotaRequest(quota_id=quota.quota_id), metadata=OWNER)
    assert not await spent(rooms)


async def test_what_was_used_in_an_earlier_window_does_not_count(rooms: Rooms) -> None:
    await create(rooms, limits=quota_pb2.Limits(requests_per_day=1, requests_per_minute=1))
    yesterday = datetime.now(UTC) - timedelta(days=1)
    await rooms.ledger.enter([now_used(1, started_at=yesterday), now_used(2, started_at=yesterday)])
    assert not await spent(rooms)


async def test_a_budget_that_is_spent_says_so_and_people_hear_of_it_before(rooms: Rooms) -> None:
    limits = quota_pb2.Limits(budget=quota_pb2.Budget(amount="1.00", period=quota_pb2.Budget.total))
    quota = await create(rooms, limits=limits)
    for number, (amount, percents) in enumerate([("0.79", []), ("0.01", [80]), ("0.1", [80]), ("0.2", [80, 100])]):
        await rooms.ledger.enter([now_used(number, cost=Decimal(amount))])
        events = await rooms.events("system.budgetReached")
        assert [event["percent"] for event in events] == percents
    (told,) = await spent(rooms)
    assert (told.budget, told.until) == (True, 0)
    assert told.message.startswith("organization org-a has spent its budget of 1.00; it is not renewed")
    assert quota.quota_id in told.message


async def test_costs_add_up_exactly(rooms: Rooms) -> None:
    await rooms.ledger.enter([now_used(number, cost=Decimal("0.1")) for number in range(3)])
    (total,) = await sums(rooms)
    assert total.cost == "0.3"
    (of_model,) = await sums(rooms, Groups.model)
    assert of_model.cost == "0.3"


@pytest.mark.parametrize(
    ("tokens", "prices", "expected"),
    [
        ((10, 5, 4), ("", "", ""), "0"),
        ((10, 5, 4), ("0.000001", "0.000003", ""), "0.000025"),
        ((10, 5, 4), ("0.000001", "0.000003", "0.0000001"), "0.0000214"),
        ((4, 0, 10), ("1", "", "0"), "0"),
        ((10, 5, 4), ("nonsense", "1e999999", "NaN"), "0"),
        ((4294967295, 0, 0), ("0.000000000000000000000000000001", "", ""), "0.000000000000000000004294967295"),
    ],
)
def test_tokens_cost_what_their_route_says(tokens: Any, prices: Any, expected: str) -> None:
    assert cost(tokens, prices) == Decimal(expected)


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)))
def test_a_moment_is_in_one_window_of_each_period_and_the_next_follows_at_once(at: datetime) -> None:
    for period in Period:
        window = period.window(at)
        assert window.since <= at
        assert period.window(window.since) == window
        if window.until is not None:
            assert at < window.until
            assert period.window(window.until).since == window.until
