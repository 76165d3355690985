"""`aiops adapters …`: LoRA adapters of running deployments."""

from typing import Annotated

import typer

from cli.connect import connect
from cli.output import Format, Output, show_many

app = typer.Typer(no_args_is_help=True, help="LoRA adapters of running deployments.")

Deployment = Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Deployment id.")]
Adapter = Annotated[str, typer.Argument(metavar="ADAPTER", help="The adapter's model id or name.")]
COLUMNS = {
    "adapter": lambda adapter: adapter.name,
    "model": lambda adapter: adapter.model_id,
    "state": lambda adapter: adapter.State.Name(adapter.state),
    "error": lambda adapter: adapter.error,
}


@app.command()
def load(context: typer.Context, deployment: Deployment, adapter: Adapter, output: Output = Format.TABLE) -> None:
    """Have the engine load an adapter, which clients then call by its own name."""
    from aiops.deployments.v1.deployment_service_pb2 import LoadAdapterRequest
    from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub

    session = connect(context)
    request = LoadAdapterRequest(deployment_id=deployment, model_id=adapter)
    answer = session.call(session.stub(DeploymentServiceStub).LoadAdapter, request)
    show_many(answer.deployment.adapters, COLUMNS, output)


@app.command()
def unload(context: typer.Context, deployment: Deployment, adapter: Adapter, output: Output = Format.TABLE) -> None:
    """Take an adapter out again: its route first, then the engine."""
    from aiops.deployments.v1.deployment_service_pb2 import UnloadAdapterRequest
    from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub

    session = connect(context)
    request = UnloadAdapterRequest(deployment_id=deployment, model_id=adapter)
    answer = session.call(session.stub(DeploymentServiceStub).UnloadAdapter, request)
    show_many(answer.deployment.adapters, COLUMNS, output)


@app.command("ls")
def list_adapters(context: typer.Context, deployment: Deployment, output: Output = Format.TABLE) -> None:
    """List a deployment's adapters."""
    from aiops.deployments.v1.deployment_service_pb2 import GetDeploymentRequest
    from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub

    session = connect(context)
    request = GetDeploymentRequest(deployment_id=deployment)
    show_many(
        session.call(session.stub(DeploymentServiceStub).GetDeployment, request).deployment.adapters, COLUMNS, output
    )
