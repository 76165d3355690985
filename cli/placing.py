"""What `aiops deploy` and `aiops plan` ask of a place, and how a plan is shown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.nodes import find_node, labels_of
from cli.output import Format, Output, as_dict, show_json, show_table
from cli.replica_sets import variables, words

if TYPE_CHECKING:
    from aiops.deployments.v1.deployment_service_pb2 import PlanDeploymentResponse

    from cli.session import Session

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model id or name.")]
Node = Annotated[str, typer.Option(help="Node id or name; chosen when missing.")]
Gpu = Annotated[str, typer.Option(help="GPU devices of the node, e.g. 0, 0,1 or the MIG slice 0:3; else chosen.")]
Port = Annotated[int, typer.Option(help="1024 to 65535; chosen when missing.")]
Context = Annotated[int, typer.Option(help="Tokens of one request; the model's own when missing.", min=0)]
Concurrency = Annotated[int, typer.Option(help="Whole contexts kept in memory at once.", min=0)]
Gpus = Annotated[int, typer.Option(help="Cards of one node that share the model; chosen when missing.", min=0)]
Label = Annotated[list[str] | None, typer.Option(help="KEY=VALUE that the node must have; KEY=* takes any value.")]
NotLabel = Annotated[list[str] | None, typer.Option(help="KEY=VALUE that the node must not have.")]
Priority = Annotated[int, typer.Option(help="-1000 to 1000; a higher one may evict lower ones.")]
Image = Annotated[str, typer.Option(help="Run it in a container of this image, on a node with Docker.")]
Command = Annotated[str, typer.Option(help="What a custom model runs; {port} and {model_dir} are filled in.")]
HealthPath = Annotated[str, typer.Option(help="Where a custom model says that it is up: /health when missing.")]
InferencePath = Annotated[str, typer.Option(help="Where a custom model infers: /v1/inference when missing.")]
Revision = Annotated[str, typer.Option("--model-revision", help="Number or digest; the current one when missing.")]
ContextTokens = Annotated[int, typer.Option("--context", help="Tokens of one request.", min=0)]
Adapters = Annotated[int, typer.Option(min=0, max=64, help="LoRA adapters that may be loaded at once.")]
Adapter = Annotated[
    list[str] | None, typer.Option(help="LoRA adapter, a model id or name, that each replica has; can be repeated.")
]
ToolParser = Annotated[str, typer.Option(help="The engine's parser of tool calls; the template's own else.")]
EngineOption = Annotated[
    list[str] | None, typer.Option(help="NAME=VALUE, or NAME, of those that the engine lets a deployment choose.")
]
Replicas = Annotated[
    int, typer.Option(min=0, max=1000, help="Keep so many running, as a replica set, wherever there is room.")
]
Variable = Annotated[list[str] | None, typer.Option("--env", help="NAME=VALUE of the engine's environment.")]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a place has to be like."""

    model: str
    node: str = ""
    gpu: str = ""
    port: int = 0
    context: int = 0
    concurrency: int = 0
    gpus: int = 0
    label: tuple[str, ...] = ()
    not_label: tuple[str, ...] = ()
    priority: int = 0
    image: str = ""
    revision: str = ""

    def fields(self, session: "Session") -> dict[str, Any]:
        """The fields that requests to plan and to create have in common."""
        return {
            "model_id": self.model,
            "node_id": find_node(session, self.node).node_id if self.node else "",
            "gpu_device": self.gpu,
            "port": self.port,
            "context_tokens": self.context,
            "max_concurrency": self.concurrency,
            "gpu_count": self.gpus,
            "required_labels": labels_of(self.label),
            "forbidden_labels": labels_of(self.not_label),
            "priority": self.priority,
            "image": self.image,
            "model_revision": self.revision,
        }


def own_fields(command: str, health_path: str, inference_path: str, env: Sequence[str]) -> dict[str, Any]:
    """The fields of requests for what runs of a deployment's own, and its environment. Raises CliError."""
    from aiops.deployments.v1.deployment_service_pb2 import HttpPaths

    return {
        "command": words(command),
        "paths": HttpPaths(health=health_path, inference=inference_path),
        "environment": variables(env),
    }


def plan(
    context: typer.Context,
    model: Model,
    node: Node = "",
    gpu: Gpu = "",
    port: Port = 0,
    context_tokens: ContextTokens = 0,
    concurrency: Concurrency = 0,
    gpus: Gpus = 0,
    label: Label = None,
    not_label: NotLabel = None,
    priority: Priority = 0,
    image: Image = "",
    revision: Revision = "",
    output: Output = Format.TABLE,
) -> None:
    """Say where an instance of a model would go, who would have to make room, and why not elsewhere."""
    labels, others = tuple(label or ()), tuple(not_label or ())
    place = (node, gpu, port, context_tokens, concurrency, gpus, labels, others, priority)
    asked = Asked(model, *place, image, revision)
    show_plan(connect(context), asked, output)


def show_plan(session: "Session", asked: Asked, output: Format, **more: Any) -> None:
    """Show the plan, with `more` fields of the request; exit with 6 when nothing fits."""
    from aiops.deployments.v1.deployment_service_pb2 import PlanDeploymentRequest
    from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub

    request = PlanDeploymentRequest(**asked.fields(session), **more)
    planned = session.call(session.stub(DeploymentServiceStub).PlanDeployment, request)
    if output is Format.JSON:
        show_json(as_dict(planned))
    else:
        show_table(["node", "verdict"], _verdicts(planned))
    if not planned.HasField("placement"):
        raise CliError(f"no node can take {asked.model}", Exit.CONFLICT, next_step="free memory or add a node")


def _verdicts(planned: "PlanDeploymentResponse") -> Iterator[list[str]]:
    if planned.HasField("placement"):
        place = planned.placement
        devices = f" on GPU {','.join(place.gpu_devices)}" if place.gpu_devices else ""
        yield [place.node_name, f"chosen{devices}: {place.engine}, {place.memory_mb} MB; {place.explanation}"]
        for each in place.evictions:
            yield [place.node_name, f"evicts {each.deployment_id} ({each.memory_mb} MB): {each.reason}"]
    for refusal in planned.refusals:
        yield [refusal.node_name, refusal.reason]
    told, total = len(planned.refusals), sum(each.nodes for each in planned.refusal_counts)
    if total > told:
        counts = ", ".join(f"{each.nodes} {each.cause}" for each in planned.refusal_counts)
        yield [f"{total} nodes in all", counts]
