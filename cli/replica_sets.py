"""`aiops replica-sets …`, `aiops scale` and `aiops rollout …`: models that are served by so many replicas."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, as_dict, note, show_many, show_one
from cli.paging import ALL_HELP, MORE, at_most

if TYPE_CHECKING:
    from aiops.deployments.v1.replica_set_pb2 import ReplicaSet
    from aiops.deployments.v1.replica_set_service_pb2_grpc import ReplicaSetServiceStub

    from cli.session import Session

app = typer.Typer(no_args_is_help=True, help="Models that are served by so many replicas.")
rollout = typer.Typer(no_args_is_help=True, help="New revisions of a replica set, one replica at a time.")

POLL_S = 0.3
# What a set chooses for each of its replicas.
_CHOSEN = ("model_id", "node_id", "gpu_device", "port")
SetArgument = Annotated[str, typer.Argument(metavar="SET", help="Replica set id or name.")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when every replica serves, with 1 when they cannot.")]
Image = Annotated[str, typer.Option(help="Container image; left to the node when missing.")]
Environment = Annotated[
    list[str] | None, typer.Option("--env", help="NAME=VALUE for the engine, instead of all before; can be repeated.")
]
Revision = Annotated[str, typer.Option("--model-revision", help="Number or digest of the model's revision.")]
Adapter = Annotated[
    list[str] | None, typer.Option(help="LoRA adapter of each replica, instead of all before; can be repeated.")
]
Command = Annotated[str, typer.Option(help="What a custom model runs, instead of what it ran before.")]
HealthPath = Annotated[str, typer.Option(help="Where a custom model says that it is up; as before when missing.")]
InferencePath = Annotated[str, typer.Option(help="Where a custom model infers; as before when missing.")]
COLUMNS = {
    "set": lambda found: found.replica_set_id,
    "name": lambda found: found.name,
    "model": lambda found: found.model_name,
    "status": lambda found: found.Status.Name(found.status),
    "serving": lambda found: f"{found.ready_replicas} of {found.replicas}",
    "revision": lambda found: (
        f"{found.revision}" + ("" if found.revision == found.stable_revision else " (rolling out)")
    ),
    "why": lambda found: found.status_reason,
}


@app.command("ls")
def list_sets(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Only of this model.")] = "",
    limit: Annotated[int, typer.Option(min=0, help=ALL_HELP)] = 100,
    output: Output = Format.TABLE,
) -> None:
    """List the replica sets."""
    rows, more = at_most(limit, _every_set(connect(context), model))
    show_many(rows, COLUMNS, output)
    if more:
        note(MORE)


@app.command("get")
def get_set(context: typer.Context, replica_set: SetArgument, output: Output = Format.TABLE) -> None:
    """Show one replica set."""
    show_one(get(connect(context), replica_set), COLUMNS, output)


@app.command()
def delete(context: typer.Context, replica_set: SetArgument, output: Output = Format.TABLE) -> None:
    """End every replica: routes first, then the engines."""
    from aiops.deployments.v1.replica_set_service_pb2 import DeleteReplicaSetRequest

    session = connect(context)
    request = DeleteReplicaSetRequest(replica_set_id=replica_set)
    show_one(session.call(stub(session).DeleteReplicaSet, request).replica_set, COLUMNS, output)


def scale(
    context: typer.Context,
    replica_set: SetArgument,
    replicas: Annotated[int, typer.Argument(min=0, max=1000, help="How many are wanted.")],
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Change the number of replicas."""
    from aiops.deployments.v1.replica_set_service_pb2 import ReplicaSetUpdate, UpdateReplicaSetRequest
    from google.protobuf.field_mask_pb2 import FieldMask

    session = connect(context)
    request = UpdateReplicaSetRequest(
        replica_set_id=replica_set,
        replica_set=ReplicaSetUpdate(replicas=replicas),
        update_mask=FieldMask(paths=["replicas"]),
    )
    _show(session, session.call(stub(session).UpdateReplicaSet, request).replica_set, wait, output)


@rollout.command("start")
def start_rollout(
    context: typer.Context,
    replica_set: SetArgument,
    image: Image = "",
    environment: Environment = None,
    revision: Revision = "",
    adapter: Adapter = None,
    command: Command = "",
    health_path: HealthPath = "",
    inference_path: InferencePath = "",
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Make every replica anew, of the model's current revision or the one named; what is not given stays as it is."""
    from aiops.deployments.v1 import replica_set_service_pb2 as pb
    from google.protobuf.field_mask_pb2 import FieldMask
    from google.protobuf.json_format import ParseDict

    session = connect(context)
    template = pb.ReplicaTemplateWish()
    ParseDict(as_dict(get(session, replica_set).template), template, ignore_unknown_fields=True)
    template.image = image or template.image
    template.model_revision = revision
    if adapter:
        template.adapters[:] = adapter
    if command:
        template.command[:] = words(command)
    template.paths.health = health_path or template.paths.health
    template.paths.inference = inference_path or template.paths.inference
    if environment:
        template.environment.clear()
        template.environment.update(variables(environment))
    request = pb.UpdateReplicaSetRequest(
        replica_set_id=replica_set,
        replica_set=pb.ReplicaSetUpdate(template=template),
        update_mask=FieldMask(paths=["template"]),
    )
    _show(session, session.call(stub(session).UpdateReplicaSet, request).replica_set, wait, output)


@rollout.command("status")
def rollout_status(
    context: typer.Context, replica_set: SetArgument, wait: Wait = False, output: Output = Format.TABLE
) -> None:
    """Show how far a rollout is."""
    session = connect(context)
    _show(session, get(session, replica_set), wait, output)


@rollout.command("pause")
def pause_rollout(context: typer.Context, replica_set: SetArgument, output: Output = Format.TABLE) -> None:
    """Hold a rollout where it is."""
    from aiops.deployments.v1.replica_set_service_pb2 import PauseRolloutRequest

    session = connect(context)
    request = PauseRolloutRequest(replica_set_id=replica_set)
    show_one(session.call(stub(session).PauseRollout, request).replica_set, COLUMNS, output)


@rollout.command("resume")
def resume_rollout(
    context: typer.Context, replica_set: SetArgument, wait: Wait = False, output: Output = Format.TABLE
) -> None:
    """Let a rollout go on."""
    from aiops.deployments.v1.replica_set_service_pb2 import ResumeRolloutRequest

    session = connect(context)
    request = ResumeRolloutRequest(replica_set_id=replica_set)
    _show(session, session.call(stub(session).ResumeRollout, request).replica_set, wait, output)


@rollout.command("undo")
def undo_rollout(
    context: typer.Context,
    replica_set: SetArgument,
    revision: Annotated[int, typer.Option(min=0, help="The revision to go back to; the one before when missing.")] = 0,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Go back to an earlier revision."""
    from aiops.deployments.v1.replica_set_service_pb2 import RollBackRequest

    session = connect(context)
    request = RollBackRequest(replica_set_id=replica_set, revision=revision)
    _show(session, session.call(stub(session).RollBack, request).replica_set, wait, output)


def create(
    session: "Session", model: str, replicas: int, asked: Mapping[str, Any], *, wait: bool, output: Format
) -> None:
    """Serve a model by so many replicas, as `aiops deploy --replicas` asks; `asked` are fields of a deployment's."""
    from aiops.deployments.v1.replica_set_service_pb2 import CreateReplicaSetRequest, ReplicaTemplateWish

    template = {name: value for name, value in asked.items() if name not in _CHOSEN}
    request = CreateReplicaSetRequest(
        model_id=model, replicas=replicas, template=ReplicaTemplateWish(**template), request_id=uuid.uuid4().hex
    )
    _show(session, session.call(stub(session).CreateReplicaSet, request).replica_set, wait, output)


def variables(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE pairs. Raises CliError."""
    if not all("=" in pair and pair[0] != "=" for pair in pairs):
        raise CliError("a variable is not NAME=VALUE", Exit.USAGE, next_step="e.g. --env VLLM_LOGGING_LEVEL=DEBUG")
    return dict(pair.partition("=")[::2] for pair in pairs)


def words(command: str) -> list[str]:
    """A command as a shell reads it. Raises CliError."""
    import shlex

    try:
        return shlex.split(command)
    except ValueError as error:
        raise CliError(f"--command: {error}", Exit.USAGE, next_step="quote it as for a shell") from error


def _show(session: "Session", found: "ReplicaSet", wait: bool, output: Format) -> None:
    show_one(_until_served(session, found) if wait else found, COLUMNS, output)


def _until_served(session: "Session", found: "ReplicaSet") -> "ReplicaSet":
    """Follow the set until it has come to rest. Raises CliError when it cannot, or its rollout was taken back."""
    wanted, shown = found.revision, ""
    while found.status != found.ready or found.revision != wanted:
        if found.status == found.failed or found.revision != wanted:
            raise CliError(f"{found.name}: {found.status_reason}", next_step="see `aiops deployments ls`")
        if found.status == found.paused:
            raise CliError(f"{found.name} is paused", Exit.CONFLICT, next_step=f"`aiops rollout resume {found.name}`")
        time.sleep(POLL_S)
        found = get(session, found.replica_set_id)
        if found.status_reason != shown:
            shown = found.status_reason
            note(f"{found.name}: {shown}")
    return found


def get(session: "Session", reference: str) -> "ReplicaSet":
    """One set, by its id or name."""
    from aiops.deployments.v1.replica_set_service_pb2 import GetReplicaSetRequest

    return session.call(stub(session).GetReplicaSet, GetReplicaSetRequest(replica_set_id=reference)).replica_set


def _every_set(session: "Session", model: str) -> "Iterator[ReplicaSet]":
    from aiops.deployments.v1.replica_set_service_pb2 import ListReplicaSetsRequest

    sets, page_token = stub(session), ""
    while True:
        request = ListReplicaSetsRequest(page_size=200, page_token=page_token, model_id=model)
        page = session.call(sets.ListReplicaSets, request)
        yield from page.replica_sets
        page_token = page.next_page_token
        if not page_token:
            return


def stub(session: "Session") -> "ReplicaSetServiceStub":
    """The service's methods."""
    from aiops.deployments.v1.replica_set_service_pb2_grpc import ReplicaSetServiceStub

    return session.stub(ReplicaSetServiceStub)
