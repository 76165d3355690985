"""Usage as protobuf messages, and events back."""

from datetime import UTC, datetime
from decimal import Decimal

from aiops.usage.v1 import usage_events_pb2 as events_pb
from aiops.usage.v1 import usage_service_pb2 as pb
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from controller.deployments.model import DeploymentId
from controller.usage.model import Group, RequestUsage, UsageFilter, UsageSum
from controller.usage.prices import cost
from mesh.errors import FieldViolation, InvalidRequestError
from mesh.events.cloudevents import Envelope, MalformedEventError
from mesh.flat_json import FlatJson
from mesh.identity import OrgId

TOPIC = "aiops.usage.v1"
RECORDED = "usage.recorded"
_JSON = FlatJson(events_pb.UsageRecorded)
_GROUPS = {
    pb.ListUsageRequest.hour: Group.HOUR,
    pb.ListUsageRequest.day: Group.DAY,
    pb.ListUsageRequest.model: Group.MODEL,
    pb.ListUsageRequest.deployment: Group.DEPLOYMENT,
    pb.ListUsageRequest.user: Group.USER,
    pb.ListUsageRequest.key: Group.KEY,
    pb.ListUsageRequest.organization: Group.ORGANIZATION,
}
_FIELDS = {
    Group.MODEL: "model",
    Group.DEPLOYMENT: "deployment_id",
    Group.USER: "user_id",
    Group.KEY: "api_key_id",
    Group.ORGANIZATION: "org_id",
}


def used_from_event(event: Envelope) -> RequestUsage | None:
    """What a request used, as its event tells; None for another event. Raises MalformedEventError."""
    if event.type != RECORDED:
        return None
    try:
        told = _JSON.read(event.value)
        started_at = datetime.fromtimestamp(told.started_at / 1000, UTC)
    except (json_format.ParseError, ValueError, OverflowError) as error:
        raise MalformedEventError(f"the event is no {RECORDED}: {error}") from error
    if not told.usage_id or not told.org_id:
        raise MalformedEventError(f"the event is no {RECORDED}: it names no usage_id or no org_id")
    return RequestUsage(
        usage_id=told.usage_id,
        org_id=OrgId(told.org_id),
        user_id=told.user_id,
        api_key_id=told.api_key_id,
        model=told.model,
        deployment_id=DeploymentId(told.deployment_id),
        endpoint=told.endpoint,
        request_id=told.request_id,
        started_at=started_at,
        duration_ms=told.duration_ms,
        first_byte_ms=told.first_byte_ms,
        status=told.status,
        streamed=told.streamed,
        counted=told.counted,
        input_tokens=told.input_tokens,
        output_tokens=told.output_tokens,
        cached_tokens=told.cached_tokens,
        request_bytes=told.request_bytes,
        response_bytes=told.response_bytes,
        attempts=told.attempts,
        flags=told.flags,
        target=told.target,
        degraded=told.degraded,
        route_id=told.route_id,
        intended_target=told.intended_target,
        mirrored=told.mirrored,
        route_name=told.route_name,
        cost=_cost_of(told),
    )


def filter_from_proto(message: pb.UsageFilter) -> UsageFilter:
    """Which requests are asked for. Raises InvalidRequestError for a span that is none."""
    since = message.since.ToDatetime(UTC) if message.HasField("since") else None
    until = message.until.ToDatetime(UTC) if message.HasField("until") else None
    if since and until and since >= until:
        raise InvalidRequestError(FieldViolation("filter.until", "must be later than filter.since"))
    return UsageFilter(message.model, message.deployment_id, message.user_id, message.api_key_id, since, until)


def groups_from_proto(request: pb.ListUsageRequest) -> tuple[Group, ...]:
    """What the sums are grouped by."""
    return tuple(_GROUPS[group] for group in request.group_by)


def sum_to_proto(total: UsageSum) -> pb.UsageSum:
    """The amounts of one group."""
    amounts = total.amounts
    message = pb.UsageSum(
        requests=amounts.requests,
        failed=amounts.failed,
        counted=amounts.counted,
        input_tokens=amounts.input_tokens,
        output_tokens=amounts.output_tokens,
        cached_tokens=amounts.cached_tokens,
        avg_duration_ms=amounts.avg_duration_ms,
        avg_first_byte_ms=amounts.avg_first_byte_ms,
        avg_token_ms=amounts.avg_token_ms,
        gpu_seconds=amounts.gpu_seconds,
        cost=_plain(amounts.cost),
    )
    # The hour is the finer of two periods.
    for group in (Group.DAY, Group.HOUR):
        period = total.groups.get(group)
        if isinstance(period, datetime):
            message.period.FromDatetime(period)
    for group, field in _FIELDS.items():
        if group in total.groups:
            setattr(message, field, str(total.groups[group]))
    return message


def record_to_proto(used: RequestUsage) -> pb.UsageRecord:
    """One request."""
    started_at = Timestamp()
    started_at.FromDatetime(used.started_at)
    return pb.UsageRecord(
        usage_id=used.usage_id,
        org_id=used.org_id,
        user_id=used.user_id,
        api_key_id=used.api_key_id,
        model=used.model,
        deployment_id=used.deployment_id,
        endpoint=used.endpoint,
        request_id=used.request_id,
        started_at=started_at,
        duration_ms=used.duration_ms,
        first_byte_ms=used.first_byte_ms,
        token_ms=used.token_ms,
        status=used.status,
        streamed=used.streamed,
        counted=used.counted,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cached_tokens=used.cached_tokens,
        gpu_seconds=used.gpu_seconds,
        cost=_plain(used.cost),
        attempts=used.attempts,
        flags=used.flags,
        target=used.target,
        degraded=used.degraded,
        route_id=used.route_id,
        intended_target=used.intended_target,
        mirrored=used.mirrored,
    )


def _cost_of(told: events_pb.UsageRecorded) -> Decimal:
    # Nobody pays for the copy of a request.
    if told.mirrored:
        return Decimal(0)
    tokens = (told.input_tokens, told.output_tokens, told.cached_tokens)
    return cost(tokens, (told.input_price, told.output_price, told.cached_price))


def _plain(amount: Decimal) -> str:
    """A decimal number without an exponent, and without zeros at its end."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
