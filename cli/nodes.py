"""`aiops nodes …` and `aiops node join`: the machines of the fleet."""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, as_dict, note, show_fields, show_json, show_many, show_one, show_result
from cli.paging import ALL_HELP, MORE, at_most

if TYPE_CHECKING:
    from aiops.nodes.v1.node_pb2 import Node
    from aiops.nodes.v1.node_service_pb2 import CreateJoinTokenResponse, RegisterNodeResponse

    from cli.session import Session

app = typer.Typer(no_args_is_help=True, help="The machines of the fleet.")
joining = typer.Typer(no_args_is_help=True, help="This machine as a node.")

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Node id or name.")]
Limit = Annotated[int, typer.Option(min=0, help=ALL_HELP)]
COLUMNS = {
    "node": lambda node: node.node_id,
    "name": lambda node: node.name,
    "status": lambda node: node.Status.Name(node.status),
    "gpus": lambda node: ", ".join(gpu.model for gpu in node.gpu_devices) or "none",
    "cpus": lambda node: node.cpu_cores,
    "ram free": lambda node: f"{node.ram_free} of {node.ram_total} MB",
    "engines": lambda node: list(node.engines),
    "reached": lambda node: f"tunnel, {node.tunnel.state}" if node.HasField("tunnel") else node.vpn_ip,
    "labels": lambda node: [f"{name}={value}" for name, value in sorted(node.labels.items())],
}
CONTAINER_COLUMNS = {
    "workload": lambda container: container.workload_id,
    "container": lambda container: container.container_name,
    "status": lambda container: container.status,
    "port": lambda container: container.port,
    "pid": lambda container: container.pid,
    "memory": lambda container: f"{container.memory_mb} MB",
    "cpu": lambda container: f"{container.cpu_percent:.0f} %",
    "restarts": lambda container: container.restarts,
}


LEAVING_COLUMNS = {
    "deployment": lambda left: left.deployment_id,
    "status": lambda left: left.status,
    "why": lambda left: left.reason or ("put there by hand, so it stays" if left.pinned else ""),
}
POLL_S = 0.5


@app.command("ls")
def list_nodes(context: typer.Context, limit: Limit = 100, output: Output = Format.TABLE) -> None:
    """List the nodes."""
    rows, more = at_most(limit, every_node(connect(context)))
    show_many(rows, COLUMNS, output)
    if more:
        note(MORE)


@app.command("get")
def get_node(context: typer.Context, node: NodeArgument, output: Output = Format.TABLE) -> None:
    """Show one node."""
    show_one(find_node(connect(context), node), COLUMNS, output)


@app.command()
def metrics(context: typer.Context, node: NodeArgument, output: Output = Format.TABLE) -> None:
    """Show a node's latest gauges."""
    from aiops.nodes.v1.node_service_pb2 import GetNodeMetricsRequest
    from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

    session = connect(context)
    request = GetNodeMetricsRequest(node_id=find_node(session, node).node_id)
    answer = session.call(session.stub(NodeServiceStub).GetNodeMetrics, request)
    show_fields(as_dict(answer.metrics), output)


@app.command()
def containers(context: typer.Context, node: NodeArgument, output: Output = Format.TABLE) -> None:
    """List what runs on a node."""
    from aiops.nodes.v1.node_service_pb2 import ListContainersRequest
    from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

    session = connect(context)
    request = ListContainersRequest(node_id=find_node(session, node).node_id, page_size=1000)
    answer = session.call(session.stub(NodeServiceStub).ListContainers, request)
    show_many(answer.containers, CONTAINER_COLUMNS, output)


@app.command()
def maintenance(context: typer.Context, node: NodeArgument, output: Output = Format.TABLE) -> None:
    """Take a node out of placement; what runs there keeps running."""
    from aiops.nodes.v1.node_service_pb2 import EnterMaintenanceRequest
    from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

    session = connect(context)
    request = EnterMaintenanceRequest(node_id=find_node(session, node).node_id)
    show_one(session.call(session.stub(NodeServiceStub).EnterMaintenance, request).node, COLUMNS, output)


@app.command()
def drain(
    context: typer.Context,
    node: NodeArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Return when nothing is left that can go elsewhere.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Empty a node: what runs there comes up elsewhere first, then ends here. `aiops nodes resume` takes it back."""
    from aiops.nodes.v1.node_service_pb2 import DrainNodeRequest
    from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

    session = connect(context)
    call, request = session.stub(NodeServiceStub).DrainNode, DrainNodeRequest(node_id=find_node(session, node).node_id)
    answer, shown = session.call(call, request), ""
    while wait and not answer.drained:
        waiting = "; ".join(f"{each.deployment_id} {each.status} {each.reason}".strip() for each in answer.left)
        if waiting != shown:
            shown = waiting
            note(f"{answer.node.name}: {waiting}")
        time.sleep(POLL_S)
        answer = session.call(call, request)
    if output is Format.JSON:
        show_json(as_dict(answer))
        return
    show_many(answer.left, LEAVING_COLUMNS, output)
    typer.echo(f"{answer.node.name} is {'drained' if answer.drained else 'being drained'}")


@app.command()
def resume(context: typer.Context, node: NodeArgument, output: Output = Format.TABLE) -> None:
    """Put a node back into placement."""
    from aiops.nodes.v1.node_service_pb2 import ExitMaintenanceRequest
    from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

    session = connect(context)
    request = ExitMaintenanceRequest(node_id=find_node(session, node).node_id)
    show_one(session.call(session.stub(NodeServiceStub).ExitMaintenance, request).node, COLUMNS, output)


@app.command()
def update(
    context: typer.Context,
    node: NodeArgument,
    name: Annotated[str, typer.Option(help="A new name.")] = "",
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; replaces all labels.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Change a node's name or labels."""
    from aiops.nodes.v1.node_service_pb2 import NodeUpdate, UpdateNodeRequest
    from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

    session = connect(context)
    request = UpdateNodeRequest(node_id=find_node(session, node).node_id, node=NodeUpdate(name=name))
    request.update_mask.paths.extend([*(["name"] if name else []), *(["labels"] if label else [])])
    if not request.update_mask.paths:
        raise CliError("nothing to change", Exit.USAGE, next_step="give --name or --label")
    request.node.labels.update(labels_of(label or []))
    show_one(session.call(session.stub(NodeServiceStub).UpdateNode, request).node, COLUMNS, output)


@app.command()
def label(
    context: typer.Context,
    node: NodeArgument,
    changes: Annotated[list[str], typer.Argument(metavar="LABEL…", help="KEY=VALUE sets a label, KEY- removes one.")],
    output: Output = Format.TABLE,
) -> None:
    """Set and remove single labels of a node; the others stay."""
    from aiops.nodes.v1.node_service_pb2 import NodeUpdate, UpdateNodeRequest
    from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

    session = connect(context)
    found = find_node(session, node)
    removed = {change[:-1] for change in changes if change.endswith("-") and "=" not in change}
    added = labels_of([change for change in changes if change[:-1] not in removed or "=" in change])
    labels = {name: value for name, value in found.labels.items() if name not in removed} | added
    request = UpdateNodeRequest(node_id=found.node_id, node=NodeUpdate(labels=labels))
    request.update_mask.paths.append("labels")
    show_one(session.call(session.stub(NodeServiceStub).UpdateNode, request).node, COLUMNS, output)


@app.command()
def delete(
    context: typer.Context,
    node: NodeArgument,
    force: Annotated[bool, typer.Option(help="Stop what runs there too.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Remove a node from the fleet."""
    from aiops.nodes.v1.node_service_pb2 import DeleteNodeRequest
    from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

    session = connect(context)
    found = find_node(session, node)
    session.call(session.stub(NodeServiceStub).DeleteNode, DeleteNodeRequest(node_id=found.node_id, force=force))
    show_result({"nodeId": found.node_id, "deleted": True}, f"deleted {found.name} ({found.node_id})", output)


@app.command()
def register(context: typer.Context, name: str, output: Output = Format.TABLE) -> None:
    """Register a machine and print the command that joins it."""
    answer = _registered(connect(context), name)
    if output is Format.JSON:
        show_json(as_dict(answer))
    else:
        _show_join_command(answer.join_token, answer.join_url)


@app.command("join-token")
def join_token(context: typer.Context, node: NodeArgument, output: Output = Format.TABLE) -> None:
    """Print the one command that makes a machine this node; earlier tokens end. A new name is registered first."""
    session = connect(context)
    known = [each for each in every_node(session) if node in {each.node_id, each.name}]
    answer = _new_token(session, known[0].node_id) if known else _registered(session, node)
    if output is Format.JSON:
        show_json(as_dict(answer))
    else:
        _show_join_command(answer.join_token, answer.join_url)


@joining.command()
def join(
    token: Annotated[str, typer.Argument(envvar="AIOPS_JOIN_TOKEN", help="Of `aiops nodes join-token NAME`.")] = "",
    controller: Annotated[str, typer.Option(help="Where to join, when not where the token says.")] = "",
    given: Annotated[str, typer.Option("--token", help="The token, as an option.")] = "",
    install: Annotated[bool, typer.Option("--install", help="Let systemd run it, now and at each boot.")] = False,
    run: Annotated[bool, typer.Option(help="Run the agent in the foreground.")] = True,
) -> None:
    """Make this machine a node: trade the token for a certificate, then run the agent. Joined already, just run it."""
    from cli.programs import become_module

    chosen = given or token
    where = ["--controller", controller] if controller else []
    how = ["--install"] if install else ["--run"] if run else []
    become_module("node_agent", "join", "--token", chosen, *where, *how)


def every_node(session: "Session") -> "Iterator[Node]":
    """All nodes, page by page."""
    from aiops.nodes.v1.node_service_pb2 import ListNodesRequest
    from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

    stub, page_token = session.stub(NodeServiceStub), ""
    while True:
        page = session.call(stub.ListNodes, ListNodesRequest(page_size=200, page_token=page_token))
        yield from page.nodes
        page_token = page.next_page_token
        if not page_token:
            return


def find_node(session: "Session", reference: str) -> "Node":
    """The node with that id or name. Raises CliError."""
    for node in every_node(session):
        if reference in {node.node_id, node.name}:
            return node
    raise CliError(f"there is no node {reference!r}", Exit.NOT_FOUND, next_step="see the nodes with `aiops nodes ls`")


def labels_of(pairs: Sequence[str]) -> dict[str, str]:
    """The labels that KEY=VALUE pairs name. Raises CliError."""
    labels = dict(pair.partition("=")[::2] for pair in pairs)
    if not all("=" in pair and pair[0] != "=" for pair in pairs):
        raise CliError("a label is not KEY=VALUE", Exit.USAGE, next_step="e.g. --label zone=a --label tier=gold")
    return labels


def _registered(session: "Session", name: str) -> "RegisterNodeResponse":
    from aiops.nodes.v1.node_service_pb2 import RegisterNodeRequest
    from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

    return session.call(session.stub(NodeServiceStub).RegisterNode, RegisterNodeRequest(name=name))


def _new_token(session: "Session", node_id: str) -> "CreateJoinTokenResponse":
    from aiops.nodes.v1.node_service_pb2 import CreateJoinTokenRequest
    from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

    return session.call(session.stub(NodeServiceStub).CreateJoinToken, CreateJoinTokenRequest(node_id=node_id))


def _show_join_command(token: str, url: str) -> None:
    if urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}:
        note(
            f"this leads to {url}, so it works on this machine only; for others give the platform an address that they"
        )
        note("reach: AIOPS_PUBLIC_NODE_ADDRESS=HOST:8443")
    typer.echo(f"aiops node join {token}")
