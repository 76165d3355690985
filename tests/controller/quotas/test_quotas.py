"""Quotas name who is there, say which field is wrong, and are changed by whoever may."""

import asyncio
from typing import Any

import pytest
from aiops.deployments.v1 import deployment_service_pb2 as deployments_pb
from aiops.deployments.v1.deployment_service_pb2_grpc import ReplicaServiceStub
from aiops.quotas.v1 import quota_pb2
from aiops.quotas.v1 import quota_service_pb2 as pb
from aiops.routing.v1 import route_pb2
from aiops.routing.v1 import route_service_pb2 as routes_pb
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from mesh.rpc.channel import open_channel
from tests.fixtures.iam import refusal
from tests.fixtures.registry import ADMIN, EDITOR, ROUTER, Metadata, Rooms, person

OWNER = person(role="organization.owner")
STRANGER = person("org-b", "organization.owner")
Quota = quota_pb2.Quota


async def create(rooms: Rooms, by: Metadata = OWNER, **fields: Any) -> quota_pb2.Quota:
    wanted = {"subject": Quota.organization, "limits": quota_pb2.Limits(requests_per_minute=5)}
    return (await rooms.quotas.CreateQuota(pb.CreateQuotaRequest(**{**wanted, **fields}), metadata=by)).quota


async def test_a_quota_is_made_changed_and_deleted(rooms: Rooms) -> None:
    made = await create(rooms, request_id="one")
    assert (made.subject_id, made.owner.org_id, made.imposed, made.version) == ("org-a", "org-a", False, 1)
    assert await create(rooms, request_id="one") == made
    listed = (await rooms.quotas.ListQuotas(pb.ListQuotasRequest(), metadata=EDITOR)).quotas
    assert list(listed) == [made]
    wanted = quota_pb2.Limits(budget=quota_pb2.Budget(amount="2.50"))
    request = pb.UpdateQuotaRequest(quota_id=made.quota_id, limits=wanted, version=1)
    after = (await rooms.quotas.UpdateQuota(request, metadata=OWNER)).quota
    assert (after.limits.requests_per_minute, after.limits.budget.amount, after.version) == (5, "2.50", 2)
    assert after.limits.budget.period == quota_pb2.Budget.month
    assert (await refusal(rooms.quotas.UpdateQuota(request, metadata=OWNER))).reason == "QUOTA_CHANGED"
    shown = (await rooms.quotas.GetQuota(pb.GetQuotaRequest(quota_id=made.quota_id), metadata=EDITOR)).quota
    assert [(each.limit_name, each.used, each.limit) for each in shown.windows] == [
        ("requests_per_minute", "0", "5"),
        ("budget", "0", "2.50"),
    ]
    delete = pb.DeleteQuotaRequest(quota_id=made.quota_id)
    gone = (await rooms.quotas.DeleteQuota(delete, metadata=OWNER)).quota
    assert gone.is_deleted
    assert (await rooms.quotas.DeleteQuota(delete, metadata=OWNER)).quota == gone
    assert not (await rooms.quotas.ListQuotas(pb.ListQuotasRequest(), metadata=OWNER)).quotas
    assert len(await rooms.events("system.quotaChanged")) == 3


async def test_only_who_manages_users_makes_quotas_and_what_the_platform_imposed_stays(rooms: Rooms) -> None:
    assert (await refusal(create(rooms, by=EDITOR))).reason == "PERMISSION_DENIED"
    imposed = await create(rooms, by=ADMIN)
    assert imposed.imposed
    delete = pb.DeleteQuotaRequest(quota_id=imposed.quota_id)
    assert (await refusal(rooms.quotas.DeleteQuota(delete, metadata=OWNER))).reason == "PERMISSION_DENIED"
    assert (await refusal(rooms.quotas.DeleteQuota(delete, metadata=STRANGER))).reason == "QUOTA_NOT_FOUND"
    assert (await rooms.quotas.DeleteQuota(delete, metadata=ADMIN)).quota.is_deleted


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("subject", {"subject": 0}),
        ("subject_id", {"subject": Quota.user, "subject_id": "nobody"}),
        ("subject_id", {"subject": Quota.user}),
        ("subject_id", {"subject": Quota.api_key, "subject_id": "no id"}),
        ("subject_id", {"subject_id": "org-b"}),
        ("model", {"model": "no name"}),
        ("model", {"model": "alias"}),
        ("limits", {"limits": quota_pb2.Limits()}),
        ("limits.budget.amount", {"limits": quota_pb2.Limits(budget=quota_pb2.Budget(amount="-1"))}),
        ("limits.budget.amount", {"limits": quota_pb2.Limits(budget=quota_pb2.Budget(amount="1e99"))}),
        ("limits.budget.amount", {"limits": quota_pb2.Limits(budget=quota_pb2.Budget(amount="NaN"))}),
        (
            "limits.budget.period",
            {"limits": json_format.ParseDict({"budget": {"amount": "1", "period": 9}}, quota_pb2.Limits())},
        ),
    ],
)
async def test_what_is_wrong_is_named(rooms: Rooms, field: str, fields: dict[str, Any]) -> None:
    wish = routes_pb.RouteWish(name="named", aliases=["alias"], targets=[route_pb2.RouteTarget(model="tiny", weight=1)])
    await rooms.routes.CreateRoute(routes_pb.CreateRouteRequest(route=wish), metadata=EDITOR)
    error = await refusal(create(rooms, **fields))
    assert [each.field for each in error.violations] == [field]
    assert (await create(rooms, model="named")).model == "named"


async def test_a_limit_is_taken_away_by_the_mask_and_the_last_one_is_not(rooms: Rooms) -> None:
    made = await create(rooms, limits=quota_pb2.Limits(requests_per_minute=5, requests_per_day=9))
    request = pb.UpdateQuotaRequest(
        quota_id=made.quota_id, limits=quota_pb2.Limits(), update_mask=FieldMask(paths=["requests_per_minute"])
    )
    after = (await rooms.quotas.UpdateQuota(request, metadata=OWNER)).quota
    assert (after.limits.requests_per_minute, after.limits.requests_per_day) == (0, 9)
    request.update_mask.paths[:] = ["requests_per_day"]
    error = await refusal(rooms.quotas.UpdateQuota(request, metadata=OWNER))
    assert [each.field for each in error.violations] == ["limits"]
    request.update_mask.paths[:] = ["nonsense"]
    error = await refusal(rooms.quotas.UpdateQuota(request, metadata=OWNER))
    assert [each.field for each in error.violations] == ["update_mask"]


async def test_routers_hear_of_quotas_when_they_change(rooms: Rooms) -> None:
    async with open_channel(rooms.address) as channel:
        call: Any = ReplicaServiceStub(channel).WatchReplicas(
            deployments_pb.WatchReplicasRequest(changes=True), metadata=ROUTER
        )
        first = await asyncio.wait_for(call.read(), 30)
        assert first.HasField("quotas")
        assert not first.quotas.quotas
        made = await create(rooms)
        told = await asyncio.wait_for(call.read(), 30)
        assert (told.partial, [each.quota_id for each in told.quotas.quotas]) == (True, [made.quota_id])
        await rooms.quotas.DeleteQuota(pb.DeleteQuotaRequest(quota_id=made.quota_id), metadata=OWNER)
        told = await asyncio.wait_for(call.read(), 30)
        assert told.HasField("quotas")
        assert not told.quotas.quotas
        call.cancel()
