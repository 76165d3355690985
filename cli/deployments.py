"""`aiops deploy`, `aiops deployments …` and `aiops logs`: running models."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.nodes import find_node
from cli.output import Format, Output, as_dict, note, show_fields, show_json, show_many, show_one, show_table
from cli.paging import ALL_HELP, MORE, at_most

if TYPE_CHECKING:
    from aiops.deployments.v1.deployment_pb2 import Deployment
    from aiops.deployments.v1.deployment_service_pb2 import PlanDeploymentResponse

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
    "error": lambda deployment: deployment.error_message,
}


def deploy(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model id or name.")],
    node: Annotated[str, typer.Option(help="Node id or name; chosen when missing.")] = "",
    gpu: Annotated[str, typer.Option(help="GPU devices of the node, e.g. 0 or 0,1; chosen when missing.")] = "",
    port: Annotated[int, typer.Option(help="1024 to 65535; chosen when missing.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say where it would go, and why.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it runs, with 1 when it fails.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Run one more instance of a model."""
    session = connect(context)
    node_id = find_node(session, node).node_id if node else ""
    if dry_run:
        _plan(session, model, node_id, gpu, port, output)
        return
    deployment = _create(session, model, node_id, gpu, port)
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


def _create(session: "Session", model: str, node_id: str, gpu: str, port: int) -> "Deployment":
    import uuid

    from aiops.deployments.v1.deployment_service_pb2 import CreateDeploymentRequest
    from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub

    request = CreateDeploymentRequest(
        model_id=model, node_id=node_id, gpu_device=gpu, port=port, request_id=uuid.uuid4().hex
    )
    return session.call(session.stub(DeploymentServiceStub).CreateDeployment, request).deployment


def _plan(session: "Session", model: str, node_id: str, gpu: str, port: int, output: Format) -> None:
    """Show the plan; exit with 6 when nothing fits."""
    from aiops.deployments.v1.deployment_service_pb2 import PlanDeploymentRequest
    from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub

    request = PlanDeploymentRequest(model_id=model, node_id=node_id, gpu_device=gpu, port=port)
    plan = session.call(session.stub(DeploymentServiceStub).PlanDeployment, request)
    if output is Format.JSON:
        show_json(as_dict(plan))
    else:
        show_table(["node", "verdict"], _verdicts(plan))
    if not plan.HasField("placement"):
        raise CliError(f"no node can take {model}", Exit.CONFLICT, next_step="free memory or add a node")


def _verdicts(plan: "PlanDeploymentResponse") -> Iterator[list[str]]:
    if plan.HasField("placement"):
        place = plan.placement
        devices = f" on GPU {','.join(place.gpu_devices)}" if place.gpu_devices else ""
        yield [place.node_name, f"chosen{devices}: {place.engine}, {place.memory_mb} MB; {place.explanation}"]
    for refusal in plan.refusals:
        yield [refusal.node_name, refusal.reason]


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
    doing = deployment.phase or f"waits for node {deployment.node_id or 'to be chosen'} to take it up"
    why = f": {deployment.error_message}" if deployment.error_message else ""
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
