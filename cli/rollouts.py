"""`aiops rollouts …`: routes that go over to another target by steps, and back by themselves."""

import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, note, show_many, show_one
from cli.paging import ALL_HELP, MORE, at_most

if TYPE_CHECKING:
    from aiops.routing.v1.rollout_pb2 import Rollout, RolloutSpec, RolloutStep
    from aiops.routing.v1.rollout_service_pb2_grpc import RolloutServiceStub

    from cli.session import Session

app = typer.Typer(no_args_is_help=True, help="Routes that go over to another target by steps, and back by themselves.")

RolloutArgument = Annotated[str, typer.Argument(metavar="ROLLOUT", help="Rollout id.")]
Steps = Annotated[
    list[str] | None,
    typer.Option("--step", help="WEIGHT, or WEIGHT:SECONDS to hold it; percent. Can be repeated. 100 is blue-green."),
]
File = Annotated[str, typer.Option("--file", "-f", help="The spec in JSON as the API takes it; - is standard input.")]
COLUMNS = {
    "rollout": lambda found: found.rollout_id,
    "route": lambda found: found.route_name,
    "from": lambda found: found.spec.stable,
    "to": lambda found: found.spec.candidate,
    "status": lambda found: found.Status.Name(found.status),
    "weight": lambda found: f"{found.weight} %",
    "step": lambda found: f"{found.step} of {len(found.spec.steps)}",
    "why": lambda found: found.status_reason,
}
DECISIONS = {
    "at": lambda made: made.at.ToDatetime().strftime("%H:%M:%S"),
    "what": lambda made: made.Action.Name(made.action),
    "weight": lambda made: f"{made.weight} %",
    "why": lambda made: made.reason,
}


@app.command("create")
def create_rollout(
    context: typer.Context,
    route: Annotated[str, typer.Argument(help="Route id or name.")],
    candidate: Annotated[str, typer.Argument(help="The target that is to answer in the end.")],
    stable: Annotated[str, typer.Option(help="The target that answers now; the only one with a weight.")] = "",
    step: Steps = None,
    min_requests: Annotated[int, typer.Option(min=0, help="Requests of each target before the share rises.")] = 0,
    max_error_percent: Annotated[float, typer.Option(min=0, max=100, help="Of the candidate's requests.")] = 0,
    max_latency_ratio: Annotated[float, typer.Option(min=0, help="To the stable target's p50 and p95.")] = 0,
    replica_set: Annotated[str, typer.Option(help="The candidate's; it is scaled down after a rollback.")] = "",
    file: File = "",
    output: Output = Format.TABLE,
) -> None:
    """Lead a route's requests to another of its targets, step by step."""
    from aiops.routing.v1.rollout_service_pb2 import CreateRolloutRequest

    spec = _spec(file)
    spec.route_id, spec.candidate = route, candidate
    spec.stable = stable or spec.stable
    spec.replica_set_id = replica_set or spec.replica_set_id
    spec.steps.extend(_step(text) for text in step or [])
    given = {
        "min_requests": min_requests,
        "max_error_percent": max_error_percent,
        "max_latency_ratio": max_latency_ratio,
    }
    for name, value in given.items():
        if value:
            setattr(spec.limits, name, value)
    session = connect(context)
    request = CreateRolloutRequest(spec=spec, request_id=uuid.uuid4().hex)
    show_one(session.call(_stub(session).CreateRollout, request).rollout, COLUMNS, output)


@app.command("list")
def list_rollouts(
    context: typer.Context,
    route: Annotated[str, typer.Option(help="Only of this route.")] = "",
    limit: Annotated[int, typer.Option(min=0, help=ALL_HELP)] = 100,
    output: Output = Format.TABLE,
) -> None:
    """List the rollouts, newest first."""
    rows, more = at_most(limit, _every_rollout(connect(context), route))
    show_many(rows, COLUMNS, output)
    if more:
        note(MORE)


@app.command("show")
def show_rollout(context: typer.Context, rollout: RolloutArgument, output: Output = Format.TABLE) -> None:
    """Show one rollout and everything that was decided of it."""
    from aiops.routing.v1.rollout_service_pb2 import GetRolloutRequest

    session = connect(context)
    found = session.call(_stub(session).GetRollout, GetRolloutRequest(rollout_id=rollout)).rollout
    show_one(found, COLUMNS, output)
    if output is Format.TABLE:
        show_many(list(found.decisions), DECISIONS, output)


@app.command("pause")
def pause_rollout(context: typer.Context, rollout: RolloutArgument, output: Output = Format.TABLE) -> None:
    """Keep the share as it is; a candidate that is bad is still rolled back."""
    from aiops.routing.v1.rollout_service_pb2 import PauseRolloutRequest

    session = connect(context)
    request = PauseRolloutRequest(rollout_id=rollout)
    show_one(session.call(_stub(session).PauseRollout, request).rollout, COLUMNS, output)


@app.command("resume")
def resume_rollout(context: typer.Context, rollout: RolloutArgument, output: Output = Format.TABLE) -> None:
    """Let the share rise again, after its hold."""
    from aiops.routing.v1.rollout_service_pb2 import ResumeRolloutRequest

    session = connect(context)
    request = ResumeRolloutRequest(rollout_id=rollout)
    show_one(session.call(_stub(session).ResumeRollout, request).rollout, COLUMNS, output)


@app.command("abort")
def abort_rollout(
    context: typer.Context,
    rollout: RolloutArgument,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the decision.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Give the stable target all requests again, now."""
    from aiops.routing.v1.rollout_service_pb2 import AbortRolloutRequest

    session = connect(context)
    request = AbortRolloutRequest(rollout_id=rollout, reason=reason)
    show_one(session.call(_stub(session).AbortRollout, request).rollout, COLUMNS, output)


def _step(text: str) -> "RolloutStep":
    from aiops.routing.v1.rollout_pb2 import RolloutStep

    weight, _, seconds = text.partition(":")
    try:
        return RolloutStep(weight=int(weight), hold_ms=round(float(seconds or 0) * 1000))
    except ValueError as error:
        text = f"{text} is neither WEIGHT nor WEIGHT:SECONDS"
        raise CliError(text, Exit.USAGE, next_step="e.g. --step 10:60 --step 50:300") from error


def _spec(file: str) -> "RolloutSpec":
    from aiops.routing.v1.rollout_pb2 import RolloutSpec
    from google.protobuf.json_format import ParseDict, ParseError

    if not file:
        return RolloutSpec()
    try:
        content: Any = json.loads(sys.stdin.read() if file == "-" else Path(file).read_text())
        return ParseDict(content, RolloutSpec())
    except (OSError, ValueError, ParseError) as error:
        raise CliError(f"{file} is no spec: {error}", Exit.USAGE, next_step="see RolloutSpec in /docs") from error


def _every_rollout(session: "Session", route: str) -> "Iterator[Rollout]":
    from aiops.routing.v1.rollout_service_pb2 import ListRolloutsRequest

    stub, page_token = _stub(session), ""
    while True:
        request = ListRolloutsRequest(route_id=route, page_size=200, page_token=page_token)
        page = session.call(stub.ListRollouts, request)
        yield from page.rollouts
        page_token = page.next_page_token
        if not page_token:
            return


def _stub(session: "Session") -> "RolloutServiceStub":
    from aiops.routing.v1.rollout_service_pb2_grpc import RolloutServiceStub

    return session.stub(RolloutServiceStub)
