"""`aiops autoscale` and `aiops replica-sets show`: how the number of replicas follows the load, and what came of it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import replica_sets
from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, show_one
from cli.replica_sets import SetArgument

if TYPE_CHECKING:
    from aiops.deployments.v1.replica_set_pb2 import ReplicaSet


def _asked(found: "ReplicaSet") -> str:
    if not found.HasField("autoscaling"):
        return "off"
    asked = found.autoscaling
    targets = {
        "at a time": asked.target_concurrency,
        "in the queue": asked.target_queue,
        "tokens a second": asked.target_tokens_per_second,
    }
    each = ", ".join(f"{value:g} {name}" for name, value in targets.items() if value)
    warm = f", {asked.warm_replicas} more warm" if asked.warm_replicas else ""
    return f"{asked.min_replicas} to {asked.max_replicas}{warm}" + (f"; {each} for each" if each else "")


def _last(found: "ReplicaSet") -> str:
    status = found.autoscaling_status
    if not status.HasField("scaled_at"):
        return "none yet"
    at = status.scaled_at.ToDatetime()
    return f"{status.scaled_from} to {status.scaled_to} at {at:%Y-%m-%d %H:%M:%S} UTC: {status.scaled_why}"


COLUMNS = {
    **replica_sets.COLUMNS,
    "autoscaling": _asked,
    "now": lambda found: found.autoscaling_status.explanation,
    "last change": _last,
}


@replica_sets.app.command("show")
def show_set(context: typer.Context, replica_set: SetArgument, output: Output = Format.TABLE) -> None:
    """Show one replica set: how it stands, what was last decided about its size, and why."""
    show_one(replica_sets.get(connect(context), replica_set), COLUMNS, output)


def autoscale(
    context: typer.Context,
    replica_set: SetArgument,
    least: Annotated[int, typer.Option("--min", min=0, help="0 lets the model sleep while nobody asks.")] = 1,
    most: Annotated[int, typer.Option("--max", min=1, max=1000)] = 1,
    concurrency: Annotated[float, typer.Option(min=0, help="Requests at a time for each replica.")] = 0.0,
    queue: Annotated[float, typer.Option(min=0, help="Requests waiting in each replica's engine.")] = 0.0,
    tokens: Annotated[float, typer.Option(min=0, help="Tokens a second that each replica generates.")] = 0.0,
    up: Annotated[int | None, typer.Option(help="Seconds for which more must be wanted.")] = None,
    down: Annotated[int | None, typer.Option(help="Seconds for which fewer must be wanted.")] = None,
    cooldown: Annotated[int | None, typer.Option(help="Seconds between two changes.")] = None,
    idle: Annotated[int | None, typer.Option(help="Seconds without a request after which the model sleeps.")] = None,
    hold: Annotated[int | None, typer.Option(help="Seconds that a request waits for the model to wake.")] = None,
    warm: Annotated[int, typer.Option(min=0, max=100, help="More replicas that run without requests, at hand.")] = 0,
    off: Annotated[bool, typer.Option("--off", help="The number stays as it is from now on.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Let the number of replicas follow the load; with --min 0 the model sleeps while nobody asks for it."""
    from aiops.deployments.v1 import replica_set_service_pb2 as pb
    from google.protobuf.field_mask_pb2 import FieldMask

    if most < least:
        raise CliError("--max is less than --min", Exit.USAGE)
    wanted = pb.ReplicaSetUpdate()
    if not off:
        given: dict[str, Any] = {
            "min_replicas": least,
            "max_replicas": most,
            "target_concurrency": concurrency,
            "target_queue": queue,
            "target_tokens_per_second": tokens,
            "scale_up_seconds": up,
            "scale_down_seconds": down,
            "cooldown_seconds": cooldown,
            "idle_seconds": idle,
            "hold_seconds": hold,
            "warm_replicas": warm,
        }
        for name, value in given.items():
            if value is not None:
                setattr(wanted.autoscaling, name, value)
    session = connect(context)
    request = pb.UpdateReplicaSetRequest(
        replica_set_id=replica_set, replica_set=wanted, update_mask=FieldMask(paths=["autoscaling"])
    )
    show_one(session.call(replica_sets.stub(session).UpdateReplicaSet, request).replica_set, COLUMNS, output)
