"""Quotas as protobuf messages and events, and limits back."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import datetime

from aiops.quotas.v1 import quota_events_pb2 as events_pb
from aiops.quotas.v1 import quota_pb2 as pb
from aiops.quotas.v1 import quota_service_pb2 as service_pb
from aiops.types.v1 import owner_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from controller.events import Encoding, Encodings
from controller.quotas.model import Budget, BudgetReached, Limits, Quota, QuotaChanged, Subject, Used
from controller.quotas.spent import Spent
from controller.quotas.windows import Period
from mesh.clock import unix_ms
from mesh.errors import FieldViolation, InvalidRequestError

TOPIC = "aiops.quotas.v1"
_NAMES = tuple(field.name for field in fields(Limits))
_COUNTS = _NAMES[:-1]


def quota_to_proto(quota: Quota, used: Sequence[Used] = ()) -> pb.Quota:
    """A quota, with what was used of it."""
    limits = pb.Limits(**{name: getattr(quota.limits, name) for name in _COUNTS})
    if quota.limits.budget.amount:
        limits.budget.amount = quota.limits.budget.amount
        limits.budget.period = pb.Budget.Period.Value(quota.limits.budget.period.value)
    return pb.Quota(
        quota_id=quota.quota_id,
        subject=subject_to_proto(quota.subject),
        subject_id=quota.subject_id,
        model=quota.model,
        limits=limits,
        imposed=quota.imposed,
        windows=map(_window_to_proto, used),
        owner=owner_pb2.Owner(org_id=quota.org_id, user_id=quota.user_id),
        created_at=_timestamp(quota.created_at),
        changed_at=_timestamp(quota.changed_at),
        deleted_at=_timestamp(quota.deleted_at),
        is_deleted=quota.deleted_at is not None,
        version=quota.version,
    )


def subject_to_proto(subject: Subject) -> pb.Quota.Subject.ValueType:
    """Whose requests count."""
    return pb.Quota.Subject.Value(subject.value)


def subject_from_proto(subject: pb.Quota.Subject.ValueType) -> Subject:
    """Whose requests count; validation has seen to it that something is named."""
    return Subject(pb.Quota.Subject.Name(subject))


def limits_from_proto(message: pb.Limits) -> Limits:
    """The limits; a budget without a period is for a month."""
    period = pb.Budget.Period.Name(message.budget.period) if message.budget.period else Period.MONTH.value
    budget = Budget(message.budget.amount, Period(period))
    return Limits(**{name: getattr(message, name) for name in _COUNTS}, budget=budget)


def change_from_proto(request: service_pb.UpdateQuotaRequest) -> Callable[[Limits], Limits]:
    """What changes: what the mask names, or without a mask whatever is set. InvalidRequestError."""
    named = set(request.update_mask.paths)
    if unknown := sorted(named - set(_NAMES)):
        raise InvalidRequestError(FieldViolation("update_mask", f"{unknown[0]} is none of {', '.join(_NAMES)}"))
    given = {field.name for field, _ in request.limits.ListFields()}
    wanted = limits_from_proto(request.limits)
    changes = {name: getattr(wanted, name) for name in named or given}
    return lambda before: replace(before, **changes)


def spent_to_proto(spent: Spent) -> service_pb.SpentQuota:
    """Somebody who has nothing left."""
    return service_pb.SpentQuota(
        org_id=spent.org_id,
        subject=subject_to_proto(spent.subject),
        subject_id=spent.subject_id,
        model=spent.model,
        until=spent.until.timestamp() if spent.until else 0,
        message=spent.message,
        budget=spent.budget,
    )


def _window_to_proto(used: Used) -> pb.QuotaWindow:
    return pb.QuotaWindow(
        limit_name=used.limit.name,
        used=f"{used.amount:f}",
        limit=f"{used.limit.amount:f}",
        since=_timestamp(used.window.since),
        until=_timestamp(used.window.until),
    )


def _timestamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    message = Timestamp()
    message.FromDatetime(at)
    return message


def _changed(event: QuotaChanged) -> events_pb.QuotaChanged:
    return events_pb.QuotaChanged(
        type="system.quotaChanged",
        quota_id=event.quota.quota_id,
        quota=quota_to_proto(event.quota),
        timestamp=unix_ms(event.at),
    )


def _reached(event: BudgetReached) -> events_pb.BudgetReached:
    return events_pb.BudgetReached(
        type="system.budgetReached",
        quota_id=event.quota.quota_id,
        org_id=event.quota.org_id,
        subject=subject_to_proto(event.quota.subject),
        subject_id=event.quota.subject_id,
        model=event.quota.model,
        percent=event.percent,
        spent=f"{event.spent:f}",
        budget=f"{event.budget:f}",
        renewed_at=unix_ms(event.renewed_at) if event.renewed_at else None,
        timestamp=unix_ms(event.at),
    )


EVENTS: Encodings = {
    BudgetReached: Encoding("system.budgetReached", TOPIC, lambda event: str(event.quota.quota_id), _reached),
    QuotaChanged: Encoding("system.quotaChanged", TOPIC, lambda event: str(event.quota.quota_id), _changed),
}
