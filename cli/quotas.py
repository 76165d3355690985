"""`aiops quotas …`: how much keys, users and organisations may use."""

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, note, show_many, show_one
from cli.paging import ALL_HELP, MORE, at_most

if TYPE_CHECKING:
    from aiops.quotas.v1.quota_pb2 import Limits, Quota
    from aiops.quotas.v1.quota_service_pb2_grpc import QuotaServiceStub

    from cli.session import Session

app = typer.Typer(no_args_is_help=True, help="How much keys, users and organisations may use.")

QuotaArgument = Annotated[str, typer.Argument(metavar="QUOTA", help="Quota id.")]
RequestsMinute = Annotated[int | None, typer.Option("--requests-per-minute", min=0, help="0 is no limit.")]
RequestsHour = Annotated[int | None, typer.Option("--requests-per-hour", min=0, help="0 is no limit.")]
RequestsDay = Annotated[int | None, typer.Option("--requests-per-day", min=0, help="0 is no limit.")]
TokensMinute = Annotated[int | None, typer.Option("--tokens-per-minute", min=0, help="0 is no limit.")]
TokensDay = Annotated[int | None, typer.Option("--tokens-per-day", min=0, help="0 is no limit.")]
BudgetOption = Annotated[
    str | None, typer.Option("--budget", help="AMOUNT for a month, or AMOUNT/day, /month, /total.")
]
COUNTS = ("requests_per_minute", "requests_per_hour", "requests_per_day", "tokens_per_minute", "tokens_per_day")
PERIODS = ("day", "month", "total")
COLUMNS = {
    "quota": lambda found: found.quota_id,
    "for": lambda found: f"{found.Subject.Name(found.subject)} {found.subject_id}",
    "model": lambda found: found.model or "all",
    "limits": lambda found: _in_words(found.limits),
    "imposed": lambda found: "yes" if found.imposed else "",
    "version": lambda found: str(found.version),
}
WINDOWS = {"used": lambda found: ", ".join(f"{each.limit_name} {each.used}/{each.limit}" for each in found.windows)}


@app.command("ls")
def list_quotas(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=0, help=ALL_HELP)] = 100,
    output: Output = Format.TABLE,
) -> None:
    """List the quotas."""
    rows, more = at_most(limit, _every_quota(connect(context)))
    show_many(rows, COLUMNS, output)
    if more:
        note(MORE)


@app.command("get")
def get_quota(context: typer.Context, quota: QuotaArgument, output: Output = Format.TABLE) -> None:
    """Show one quota and what was used of it."""
    from aiops.quotas.v1.quota_service_pb2 import GetQuotaRequest

    session = connect(context)
    found = session.call(_stub(session).GetQuota, GetQuotaRequest(quota_id=quota)).quota
    show_one(found, COLUMNS | WINDOWS, output)


@app.command("create")
def create_quota(
    context: typer.Context,
    key: Annotated[str, typer.Option(help="For this API key's id.")] = "",
    user: Annotated[str, typer.Option(help="For this user's id.")] = "",
    organization: Annotated[str, typer.Option(help="For this organisation; without any of the three, your own.")] = "",
    model: Annotated[str, typer.Option(help="Only requests for this model.")] = "",
    requests_per_minute: RequestsMinute = None,
    requests_per_hour: RequestsHour = None,
    requests_per_day: RequestsDay = None,
    tokens_per_minute: TokensMinute = None,
    tokens_per_day: TokensDay = None,
    budget: BudgetOption = None,
    output: Output = Format.TABLE,
) -> None:
    """Limit what a key, a user or an organisation uses. Of several quotas each has to let a request in."""
    from aiops.quotas.v1.quota_pb2 import Quota
    from aiops.quotas.v1.quota_service_pb2 import CreateQuotaRequest

    subjects = {Quota.api_key: key, Quota.user: user, Quota.organization: organization}
    named = [subject for subject, name in subjects.items() if name] or [Quota.organization]
    if len(named) > 1:
        raise CliError("choose one of --key, --user and --organization", Exit.USAGE)
    counts = (requests_per_minute, requests_per_hour, requests_per_day, tokens_per_minute, tokens_per_day)
    request = CreateQuotaRequest(
        subject=named[0],
        subject_id=subjects[named[0]],
        model=model,
        limits=_limits(counts, budget)[0],
        request_id=uuid.uuid4().hex,
    )
    session = connect(context)
    show_one(session.call(_stub(session).CreateQuota, request).quota, COLUMNS, output)


@app.command("update")
def update_quota(
    context: typer.Context,
    quota: QuotaArgument,
    requests_per_minute: RequestsMinute = None,
    requests_per_hour: RequestsHour = None,
    requests_per_day: RequestsDay = None,
    tokens_per_minute: TokensMinute = None,
    tokens_per_day: TokensDay = None,
    budget: BudgetOption = None,
    version: Annotated[int, typer.Option(min=0, help="Only when the quota is still at this version.")] = 0,
    output: Output = Format.TABLE,
) -> None:
    """Change the limits that are given and leave the rest. What was used stays counted."""
    from aiops.quotas.v1.quota_service_pb2 import UpdateQuotaRequest

    counts = (requests_per_minute, requests_per_hour, requests_per_day, tokens_per_minute, tokens_per_day)
    limits, paths = _limits(counts, budget)
    request = UpdateQuotaRequest(quota_id=quota, limits=limits, version=version)
    request.update_mask.paths.extend(paths)
    session = connect(context)
    show_one(session.call(_stub(session).UpdateQuota, request).quota, COLUMNS, output)


@app.command("delete")
def delete_quota(context: typer.Context, quota: QuotaArgument, output: Output = Format.TABLE) -> None:
    """Let requests in again that only this quota held back."""
    from aiops.quotas.v1.quota_service_pb2 import DeleteQuotaRequest

    session = connect(context)
    show_one(session.call(_stub(session).DeleteQuota, DeleteQuotaRequest(quota_id=quota)).quota, COLUMNS, output)


def _limits(counts: tuple[int | None, ...], budget: str | None) -> "tuple[Limits, list[str]]":
    """What is given, and the names of it. Raises CliError when that is nothing."""
    from aiops.quotas.v1.quota_pb2 import Budget, Limits

    given = {name: count for name, count in zip(COUNTS, counts, strict=True) if count is not None}
    limits = Limits()
    for name, count in given.items():
        setattr(limits, name, count)
    if budget is not None:
        amount, _, period = budget.partition("/")
        if period not in ("", *PERIODS):
            raise CliError(f"--budget {budget}: behind the slash stands day, month or total", Exit.USAGE)
        limits.budget.CopyFrom(Budget(amount=amount, period=Budget.Period.Value(period or "month")))
    paths = [*given, *(["budget"] if budget is not None else [])]
    if not paths:
        raise CliError("no limit is given", Exit.USAGE, next_step="for instance --requests-per-minute 60")
    return limits, paths


def _in_words(limits: "Limits") -> str:
    found = [f"{getattr(limits, name)} {name.replace('_', ' ')}" for name in COUNTS if getattr(limits, name)]
    budget = limits.budget
    return ", ".join([*found, *([f"{budget.amount}/{budget.Period.Name(budget.period)}"] if budget.amount else [])])


def _every_quota(session: "Session") -> "Iterator[Quota]":
    from aiops.quotas.v1.quota_service_pb2 import ListQuotasRequest

    stub, page_token = _stub(session), ""
    while True:
        page = session.call(stub.ListQuotas, ListQuotasRequest(page_size=200, page_token=page_token))
        yield from page.quotas
        page_token = page.next_page_token
        if not page_token:
            return


def _stub(session: "Session") -> "QuotaServiceStub":
    from aiops.quotas.v1.quota_service_pb2_grpc import QuotaServiceStub

    return session.stub(QuotaServiceStub)
