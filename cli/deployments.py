"""`aiops deploy`, `aiops deployments …` and `aiops logs`: running models."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import placing, replica_sets
from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, as_dict, note, show_fields, show_json, show_many, show_one
from cli.paging import ALL_HELP, MORE, at_most

if TYPE_CHECKING:
    from aiops.deployments.v1.deployment_pb2 import Deployment
    from aiops.types.v1.engine_pb2 import EngineOptions

    from cli.session import Session

app = typer.Typer(no_args_is_help=True, help="Running models.")

POLL_S = 0.3
DeploymentArgument = Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Deployment id.")]
COLUMNS = {
    "deployment": lambda deployment: deployment.deployment_id,
    "model": lambda deployment: deployment.model_name or deployment.model_id,
    "node": lambda deployment: deployment.node_id,
    "status": lambda deployment: deployment.Status.Name(deployment.status),
    "phase": lambda deployment: f"{deployment.phase} {deployment.progress} %" if deployment.phase else "",
    "engine": lambda deployment: deployment.engine,
    "port": lambda deployment: deployment.port or "",
    "endpoint": lambda deployment: deployment.endpoint,
    "error": lambda deployment: deployment.error_message or deployment.status_reason,
}


def deploy(
    context: typer.Context,
    model: placing.Model,
    node: placing.Node = "",
    gpu: placing.Gpu = "",
    port: placing.Port = 0,
    context_tokens: placing.ContextTokens = 0,
    concurrency: placing.Concurrency = 0,
    gpus: placing.Gpus = 0,
    label: placing.Label = None,
    not_label: placing.NotLabel = None,
    priority: placing.Priority = 0,
    image: placing.Image = "",
    command: placing.Command = "",
    health_path: placing.HealthPath = "",
    inference_path: placing.InferencePath = "",
    env: placing.Variable = None,
    revision: placing.Revision = "",
    adapters: placing.Adapters = 0,
    adapter: placing.Adapter = None,
    tool_parser: placing.ToolParser = "",
    engine_option: placing.EngineOption = None,
    replicas: placing.Replicas = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say where it would go, and why.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it runs, with 1 when it fails.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Run one more instance of a model, or keep so many replicas of it running."""
    session = connect(context)
    labels, others = tuple(label or ()), tuple(not_label or ())
    place = (node, gpu, port, context_tokens, concurrency, gpus, labels, others, priority)
    asked = placing.Asked(model, *place, image, revision)
    own = placing.own_fields(command, health_path, inference_path, env or ())
    own["engine_options"] = _engine_options(adapters or len(adapter or ()), tool_parser, engine_option or ())
    if dry_run:
        placing.show_plan(session, asked, output, engine_options=own["engine_options"], adapters=adapter or ())
        return
    if replicas:
        if node or gpu or port:
            raise CliError("--replicas chooses nodes, devices and ports itself", Exit.USAGE, next_step="leave them out")
        fields = asked.fields(session) | own | {"adapters": adapter}
        replica_sets.create(session, model, replicas, fields, wait=wait, output=output)
        return
    if adapter:
        raise CliError("--adapter is for --replicas", Exit.USAGE, next_step="deploy, then `aiops adapters load`")
    deployment = _create(session, asked, own)
    if wait:
        deployment = _until_settled(session, deployment)
    show_one(deployment, COLUMNS, output)


@app.command("ls")
def list_deployments(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Only of this model id.")] = "",
    limit: Annotated[int, typer.Option(min=0, help=ALL_HELP)] = 100,
    output: Output = Format.TABLE,
) -> None:
    """List the deployments."""
    rows, more = at_most(limit, _every_deployment(connect(context), model))
    show_many(rows, COLUMNS, output)
    if more:
        note(MORE)


@app.command("get")
def get_deployment(context: typer.Context, deployment: DeploymentArgument, output: Output = Format.TABLE) -> None:
    """Show one deployment."""
    show_one(_get(connect(context), deployment), COLUMNS, output)


@app.command()
def stop(context: typer.Context, deployment: DeploymentArgument, output: Output = Format.TABLE) -> None:
    """Stop a deployment: its routes first, then the engine."""
    from aiops.deployments.v1.deployment_service_pb2 import StopDeploymentRequest
    from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub

    session = connect(context)
    request = StopDeploymentRequest(deployment_id=deployment)
    show_one(session.call(session.stub(DeploymentServiceStub).StopDeployment, request).deployment, COLUMNS, output)


@app.command()
def metrics(context: typer.Context, deployment: DeploymentArgument, output: Output = Format.TABLE) -> None:
    """Show what a deployment uses."""
    from aiops.deployments.v1.deployment_service_pb2 import GetDeploymentMetricsRequest
    from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub

    session = connect(context)
    request = GetDeploymentMetricsRequest(deployment_id=deployment)
    answer = session.call(session.stub(DeploymentServiceStub).GetDeploymentMetrics, request)
    show_fields(as_dict(answer.metrics), output)


def logs(
    context: typer.Context,
    deployment: DeploymentArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it is written.")] = False,
    lines: Annotated[int, typer.Option(min=1, max=10000, help="Start with so many last lines.")] = 100,
    output: Output = Format.TABLE,
) -> None:
    """Show the engine's log of a deployment."""
    from aiops.deployments.v1 import deployment_service_pb2 as pb
    from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub

    session = connect(context)
    stub = session.stub(DeploymentServiceStub)
    if not follow:
        answer = session.call(
            stub.GetDeploymentLogs, pb.GetDeploymentLogsRequest(deployment_id=deployment, lines=lines)
        )
        if output is Format.JSON:
            show_json(as_dict(answer))
        else:
            typer.echo(answer.logs, nl=not answer.logs.endswith("\n"))
        return
    _get(session, deployment)
    for part in session.stream(
        stub.FollowDeploymentLogs, pb.FollowDeploymentLogsRequest(deployment_id=deployment, lines=lines)
    ):
        typer.echo(part.logs, nl=False)


def _engine_options(adapters: int, tool_parser: str, options: Iterable[str]) -> "EngineOptions":
    from aiops.types.v1.engine_pb2 import EngineOptions

    pairs = (option.partition("=") for option in options)
    extra = {name.removeprefix("--"): value for name, _, value in pairs}
    return EngineOptions(max_adapters=adapters, tool_parser=tool_parser, extra=extra)


def _create(session: "Session", asked: placing.Asked, own: Mapping[str, Any]) -> "Deployment":
    import uuid

    from aiops.deployments.v1.deployment_service_pb2 import CreateDeploymentRequest
    from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub

    request = CreateDeploymentRequest(**asked.fields(session), **own, request_id=uuid.uuid4().hex)
    return session.call(session.stub(DeploymentServiceStub).CreateDeployment, request).deployment


def _until_settled(session: "Session", deployment: "Deployment") -> "Deployment":
    """Follow the deployment until it runs. Raises CliError with the end of the log when it fails."""
    from rich.console import Console

    console, shown = Console(stderr=True), ("", "")
    with console.status(_progress(deployment)) as status:
        while deployment.status == deployment.Status.Value("deploying"):
            time.sleep(POLL_S)
            deployment = _get(session, deployment.deployment_id)
            status.update(_progress(deployment))
            if not console.is_terminal and (deployment.phase, deployment.error_message) != shown:
                shown = (deployment.phase, deployment.error_message)
                note(_progress(deployment))
    if deployment.status == deployment.Status.Value("running"):
        return deployment
    raise CliError(
        f"{deployment.deployment_id} is {deployment.Status.Name(deployment.status)}: {deployment.error_message}",
        why=tuple(deployment.log_tail.splitlines()[-20:]),
        next_step=f"see the whole log with `aiops logs {deployment.deployment_id}`",
    )


def _progress(deployment: "Deployment") -> str:
    waits = f"waits for node {deployment.node_id or 'to be chosen'} to take it up"
    doing = deployment.phase or deployment.status_reason or waits
    said = deployment.error_message or deployment.phase_detail
    why = f": {said}" if said else ""
    return f"{deployment.deployment_id} {doing} {deployment.progress} %{why}"


def _get(session: "Session", deployment_id: str) -> "Deployment":
    from aiops.deployments.v1.deployment_service_pb2 import GetDeploymentRequest
    from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub

    request = GetDeploymentRequest(deployment_id=deployment_id)
    return session.call(session.stub(DeploymentServiceStub).GetDeployment, request).deployment


def _every_deployment(session: "Session", model: str) -> "Iterator[Deployment]":
    from aiops.deployments.v1.deployment_service_pb2 import ListDeploymentsRequest
    from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub

    stub, page_token = session.stub(DeploymentServiceStub), ""
    while True:
        request = ListDeploymentsRequest(page_size=200, page_token=page_token, model_id=model)
        page = session.call(stub.ListDeployments, request)
        yield from page.deployments
        page_token = page.next_page_token
        if not page_token:
            return
