"""`aiops usage` and `aiops requests`: what inference used, summed up and one by one."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, note, show_many
from cli.paging import ALL_HELP, MORE, at_most

if TYPE_CHECKING:
    from aiops.usage.v1.usage_service_pb2 import UsageFilter, UsageRecord, UsageSum

    from cli.session import Session

GROUPS = ("hour", "day", "model", "deployment", "user", "key", "organization")
UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
GROUP_COLUMNS = {
    "hour": lambda total: total.period.ToDatetime().isoformat(" ", "minutes"),
    "day": lambda total: total.period.ToDatetime().date().isoformat(),
    "model": lambda total: total.model,
    "deployment": lambda total: total.deployment_id or "none reached",
    "user": lambda total: total.user_id,
    "key": lambda total: total.api_key_id or "signed in",
    "organization": lambda total: total.org_id,
}
SUM_COLUMNS = {
    "requests": lambda total: f"{total.requests:,.0f}",
    "failed": lambda total: f"{total.failed:,.0f}",
    "tokens in": lambda total: f"{total.input_tokens:,.0f}",
    "cached": lambda total: f"{total.cached_tokens:,.0f}",
    "tokens out": lambda total: f"{total.output_tokens:,.0f}",
    "mean": lambda total: f"{total.avg_duration_ms:.0f} ms",
    "first token": lambda total: f"{total.avg_first_byte_ms:.0f} ms" if total.avg_first_byte_ms else "",
    "per token": lambda total: f"{total.avg_token_ms:.1f} ms" if total.avg_token_ms else "",
    "GPU": lambda total: f"{total.gpu_seconds:,.1f} s" if total.gpu_seconds else "",
    "cost": lambda total: total.cost if total.cost != "0" else "",
}
RECORD_COLUMNS = {
    "started": lambda used: used.started_at.ToDatetime().isoformat(" ", "seconds"),
    "request": lambda used: used.request_id,
    "model": lambda used: used.model,
    "deployment": lambda used: used.deployment_id,
    "user": lambda used: used.user_id,
    "status": lambda used: (used.flags and f"{used.status} {used.flags}") or used.status,
    "took": lambda used: f"{used.duration_ms:.0f} ms",
    "tokens": lambda used: f"{used.input_tokens} + {used.output_tokens}" if used.counted else "not counted",
    "cost": lambda used: used.cost if used.cost != "0" else "",
}
Since = Annotated[str, typer.Option(help="From when on: a span such as 90m, 24h or 7d, or a time such as 2026-01-31.")]
Until = Annotated[str, typer.Option(help="Until when, in the same words.")]
Model = Annotated[str, typer.Option(help="Only requests for this model, as clients name it.")]
Deployment = Annotated[str, typer.Option(help="Only requests that this deployment answered.")]
User = Annotated[str, typer.Option(help="Only requests of this user id.")]
Key = Annotated[str, typer.Option(help="Only requests with this API key's id.")]
Limit = Annotated[int, typer.Option(min=0, help=ALL_HELP)]
app = typer.Typer(invoke_without_command=True)


@app.callback()
def usage(
    context: typer.Context,
    by: Annotated[list[str] | None, typer.Option(help=f"Sum up by this; may be repeated: {', '.join(GROUPS)}.")] = None,
    since: Since = "",
    until: Until = "",
    model: Model = "",
    deployment: Deployment = "",
    user: User = "",
    key: Key = "",
    limit: Limit = 100,
    output: Output = Format.TABLE,
) -> None:
    """Sum up what requests used: tokens, time, GPU seconds, money."""
    if context.invoked_subcommand:
        return
    from aiops.usage.v1.usage_service_pb2 import UsageFilter

    groups = by or []
    for group in groups:
        if group not in GROUPS:
            raise CliError(f"--by {group}: choose from {', '.join(GROUPS)}", Exit.USAGE)
    wanted = UsageFilter(model=model, deployment_id=deployment, user_id=user, api_key_id=key)
    narrow(wanted, since, until)
    rows, more = at_most(limit, _sums(connect(context), wanted, groups))
    show_many(rows, {group: GROUP_COLUMNS[group] for group in groups} | SUM_COLUMNS, output)
    if more:
        note(MORE)


def requests(
    context: typer.Context,
    since: Since = "",
    until: Until = "",
    model: Model = "",
    deployment: Deployment = "",
    user: User = "",
    key: Key = "",
    limit: Limit = 20,
    output: Output = Format.TABLE,
) -> None:
    """List requests that models answered, newest first."""
    from aiops.usage.v1.usage_service_pb2 import UsageFilter

    wanted = UsageFilter(model=model, deployment_id=deployment, user_id=user, api_key_id=key)
    narrow(wanted, since, until)
    rows, more = at_most(limit, _records(connect(context), wanted))
    show_many(rows, RECORD_COLUMNS, output)
    if more:
        note(MORE)


def narrow(wanted: "UsageFilter", since: str, until: str) -> None:
    """Puts the span of time into the filter. Raises CliError for what is no time."""
    if since:
        wanted.since.FromDatetime(moment("--since", since))
    if until:
        wanted.until.FromDatetime(moment("--until", until))


def moment(option: str, text: str) -> datetime:
    """A span back from now, or a time, which is UTC unless it says otherwise. Raises CliError."""
    span = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if span:
        return datetime.now(UTC) - int(span[1]) * UNITS[span[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(
            f"{option} {text}: neither a span such as 24h nor a time such as 2026-01-31", Exit.USAGE
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _sums(session: "Session", wanted: "UsageFilter", groups: list[str]) -> Iterator["UsageSum"]:
    from aiops.usage.v1.usage_service_pb2 import ListUsageRequest
    from aiops.usage.v1.usage_service_pb2_grpc import UsageServiceStub

    request = ListUsageRequest(filter=wanted, page_size=1000)
    request.group_by.extend(ListUsageRequest.Group.Value(group) for group in groups)
    while True:
        page = session.call(session.stub(UsageServiceStub).ListUsage, request)
        yield from page.sums
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _records(session: "Session", wanted: "UsageFilter") -> Iterator["UsageRecord"]:
    from aiops.usage.v1.usage_service_pb2 import ListUsageRecordsRequest
    from aiops.usage.v1.usage_service_pb2_grpc import UsageServiceStub

    request = ListUsageRecordsRequest(filter=wanted, page_size=200)
    while True:
        page = session.call(session.stub(UsageServiceStub).ListUsageRecords, request)
        yield from page.records
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
