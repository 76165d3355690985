"""`aiops usage reconcile`: the ledger beside what the engines counted themselves."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from cli.connect import connect
from cli.output import Format, Output, note, show_many
from cli.paging import MORE, at_most
from cli.usage import Deployment, Limit, Since, Until, moment

if TYPE_CHECKING:
    from aiops.usage.v1.usage_service_pb2 import ListReconciliationRequest, ReconciledDay

    from cli.session import Session

NOT_COUNTED = "no counter"
COLUMNS = {
    "day": lambda row: row.day.ToDatetime().date().isoformat(),
    "deployment": lambda row: row.deployment_id,
    "requests": lambda row: _beside(row, "requests"),
    "tokens in": lambda row: _beside(row, "input_tokens"),
    "tokens out": lambda row: _beside(row, "output_tokens"),
    "engine heard since": lambda row: row.since.ToDatetime().isoformat(" ", "seconds") if row.HasField("since") else "",
}


def reconcile(
    context: typer.Context,
    since: Since = "",
    until: Until = "",
    deployment: Deployment = "",
    limit: Limit = 100,
    output: Output = Format.TABLE,
) -> None:
    """Compare the ledger with the engines' own counters: ledger, engine and difference, by day and deployment."""
    from aiops.usage.v1.usage_service_pb2 import ListReconciliationRequest

    wanted = ListReconciliationRequest(deployment_id=deployment, page_size=1000)
    if since:
        wanted.since.FromDatetime(moment("--since", since))
    if until:
        wanted.until.FromDatetime(moment("--until", until))
    rows, more = at_most(limit, _days(connect(context), wanted))
    show_many(rows, COLUMNS, output)
    if more:
        note(MORE)


def _beside(row: "ReconciledDay", name: str) -> str:
    """What the ledger has, what the engine counted, and by how much it is more."""
    ledger: float = getattr(row, f"ledger_{name}")
    if f"engine_{name}" not in {field.name for field, _ in row.ListFields()}:
        return f"{ledger:,.0f} / {NOT_COUNTED}"
    return f"{ledger:,.0f} / {getattr(row, f'engine_{name}'):,.0f} ({getattr(row, f'{name}_difference'):+,.0f})"


def _days(session: "Session", wanted: "ListReconciliationRequest") -> Iterator["ReconciledDay"]:
    from aiops.usage.v1.usage_service_pb2_grpc import UsageServiceStub

    while True:
        page = session.call(session.stub(UsageServiceStub).ListReconciliation, wanted)
        yield from page.days
        if not page.next_page_token:
            return
        wanted.page_token = page.next_page_token
