"""Days of the ledger beside engines' counters, as protobuf messages."""

from datetime import UTC, datetime, time, timedelta

from aiops.usage.v1 import usage_service_pb2 as pb

from controller.usage.engines import DaysWanted, ReconciledDay
from mesh.errors import FieldViolation, InvalidRequestError


def days_from_proto(request: pb.ListReconciliationRequest) -> DaysWanted:
    """Which whole days are asked for. Raises InvalidRequestError for a span that is none."""
    since = request.since.ToDatetime(UTC) if request.HasField("since") else None
    until = request.until.ToDatetime(UTC) if request.HasField("until") else None
    if since and until and since >= until:
        raise InvalidRequestError(FieldViolation("until", "must be later than since"))
    return DaysWanted(request.deployment_id, _midnight(since) if since else None, _day_end(until) if until else None)


def day_to_proto(day: ReconciledDay) -> pb.ReconciledDay:
    """One row."""
    engine, difference = day.engine, day.difference
    message = pb.ReconciledDay(
        deployment_id=day.deployment_id,
        ledger_requests=day.ledger_requests,
        ledger_counted=day.ledger_counted,
        ledger_input_tokens=day.ledger_input_tokens,
        ledger_output_tokens=day.ledger_output_tokens,
        engine_requests=engine.requests,
        engine_input_tokens=engine.input_tokens,
        engine_output_tokens=engine.output_tokens,
        requests_difference=difference.requests,
        input_tokens_difference=difference.input_tokens,
        output_tokens_difference=difference.output_tokens,
    )
    message.day.FromDatetime(day.day)
    if day.since:
        message.since.FromDatetime(day.since)
    return message


def _midnight(moment: datetime) -> datetime:
    return datetime.combine(moment.date(), time(), UTC)


def _day_end(moment: datetime) -> datetime:
    """The end of the day that `moment` is in, or `moment` where a day begins with it."""
    midnight = _midnight(moment)
    if midnight == moment or midnight.date() == datetime.max.date():
        return moment
    return midnight + timedelta(days=1)
