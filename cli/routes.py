"""`aiops routes …`: models as clients see them, and where their requests go."""

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
    from aiops.routing.v1.route_pb2 import Route, RouteTarget
    from aiops.routing.v1.route_service_pb2 import RouteWish
    from aiops.routing.v1.route_service_pb2_grpc import RouteServiceStub

    from cli.session import Session

app = typer.Typer(no_args_is_help=True, help="Models as clients see them, and where their requests go.")

RouteArgument = Annotated[str, typer.Argument(metavar="ROUTE", help="Route id or name.")]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", help="MODEL of the platform, or MODEL=WEIGHT; 0 is a fallback. Can be repeated."),
]
Aliases = Annotated[list[str] | None, typer.Option("--alias", help="Another name for it. Can be repeated.")]
Fallbacks = Annotated[
    list[str] | None,
    typer.Option("--fallback", help="A target to try when the first failed, in turn. Can be repeated."),
]
File = Annotated[
    str,
    typer.Option("--file", "-f", help="The wish in JSON as the API takes it; - is standard input. Options add to it."),
]
Affinity = Annotated[
    str, typer.Option(help="none, session or prefix: which requests go to the same instance of a target.")
]
Mirrors = Annotated[
    list[str] | None,
    typer.Option("--mirror", help="MODEL=PERCENT gets copies of so many requests, unseen. Can be repeated."),
]
Strategies = Annotated[
    list[str] | None,
    typer.Option(
        "--strategy",
        help="retry_exponential, circuit_breaker, fallback_service or graceful_degradation. Can be repeated.",
    ),
]
Sorry = Annotated[str, typer.Option("--degraded-answer", help="What chats are answered when no target can.")]
ByLoad = Annotated[
    bool | None, typer.Option("--by-load/--no-by-load", help="Instances whose engines are busier get less.")
]
Version = Annotated[int, typer.Option(min=0, help="Only when the route is still at this version.")]
COLUMNS = {
    "route": lambda found: found.route_id,
    "name": lambda found: found.name,
    "aliases": lambda found: ", ".join(found.aliases),
    "targets": lambda found: ", ".join(_share(target) for target in found.targets),
    "fallbacks": lambda found: ", ".join(found.fallbacks),
    "for": lambda found: found.Visibility.Name(found.visibility),
    "version": lambda found: str(found.version),
}


@app.command("ls")
def list_routes(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=0, help=ALL_HELP)] = 100,
    output: Output = Format.TABLE,
) -> None:
    """List the routes."""
    rows, more = at_most(limit, _every_route(connect(context)))
    show_many(rows, COLUMNS, output)
    if more:
        note(MORE)


@app.command("get")
def get_route(context: typer.Context, route: RouteArgument, output: Output = Format.TABLE) -> None:
    """Show one route."""
    from aiops.routing.v1.route_service_pb2 import GetRouteRequest

    session = connect(context)
    show_one(session.call(_stub(session).GetRoute, GetRouteRequest(route_id=route)).route, COLUMNS, output)


@app.command("create")
def create_route(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What clients send as `model`.")],
    target: Targets = None,
    alias: Aliases = None,
    fallback: Fallbacks = None,
    mirror: Mirrors = None,
    strategy: Strategies = None,
    degraded_answer: Sorry = "",
    everybody: Annotated[bool, typer.Option("--everybody", help="For every organisation.")] = False,
    affinity: Affinity = "",
    by_load: ByLoad = None,
    file: File = "",
    output: Output = Format.TABLE,
) -> None:
    """Lead a name to models: by share, with fallbacks."""
    from aiops.routing.v1 import route_pb2
    from aiops.routing.v1.route_service_pb2 import CreateRouteRequest

    wish = _recovering(_wish(file, target, alias, fallback), mirror, strategy, degraded_answer)
    wish.name = name
    if everybody:
        wish.visibility = route_pb2.Route.universe
    session = connect(context)
    request = CreateRouteRequest(route=wish, request_id=uuid.uuid4().hex)
    show_one(session.call(_stub(session).CreateRoute, request).route, COLUMNS, output)


@app.command("update")
def update_route(
    context: typer.Context,
    route: RouteArgument,
    target: Targets = None,
    alias: Aliases = None,
    fallback: Fallbacks = None,
    affinity: Affinity = "",
    by_load: ByLoad = None,
    mirror: Mirrors = None,
    strategy: Strategies = None,
    degraded_answer: Sorry = "",
    file: File = "",
    version: Version = 0,
    output: Output = Format.TABLE,
) -> None:
    """Change what is given and leave the rest; a canary's share, for instance."""
    from aiops.routing.v1.route_service_pb2 import UpdateRouteRequest

    session = connect(context)
    wish = _recovering(_wish(file, target, alias, fallback), mirror, strategy, degraded_answer)
    request = UpdateRouteRequest(route_id=route, route=wish, version=version)
    show_one(session.call(_stub(session).UpdateRoute, request).route, COLUMNS, output)


@app.command("delete")
def delete_route(
    context: typer.Context, route: RouteArgument, version: Version = 0, output: Output = Format.TABLE
) -> None:
    """Lead its names nowhere any more."""
    from aiops.routing.v1.route_service_pb2 import DeleteRouteRequest

    session = connect(context)
    request = DeleteRouteRequest(route_id=route, version=version)
    show_one(session.call(_stub(session).DeleteRoute, request).route, COLUMNS, output)


def _wish(file: str, targets: list[str] | None, aliases: list[str] | None, fallbacks: list[str] | None) -> "RouteWish":
    from aiops.routing.v1.route_service_pb2 import RouteWish
    from google.protobuf.json_format import ParseDict, ParseError

    content = _read(file) if file else {}
    try:
        wish = ParseDict(content, RouteWish())
    except ParseError as error:
        raise CliError(f"{file} is no route: {error}", Exit.USAGE, next_step="see RouteWish in /docs") from error
    wish.targets.extend(_target(text) for text in targets or [])
    wish.aliases.extend(aliases or [])
    wish.fallbacks.extend(fallbacks or [])
    return wish


def _recovering(
    wish: "RouteWish", mirrors: list[str] | None, strategies: list[str] | None, degraded_answer: str
) -> "RouteWish":
    """The wish with what is done when targets fail, and with those that get copies."""
    from aiops.routing.v1.route_pb2 import Route

    known = Route.Strategy.keys()[1:]
    for name in strategies or []:
        if name not in known:
            raise CliError(f"{name} is no strategy", Exit.USAGE, next_step=f"choose of {', '.join(known)}")
        wish.strategies.append(Route.Strategy.Value(name))
    for text in mirrors or []:
        mirrored = _target(text)
        mirrored.mirror_percent, mirrored.weight = mirrored.weight, 0
        wish.targets.append(mirrored)
    wish.degraded_answer = degraded_answer or wish.degraded_answer
    return wish


def _balance(wish: "RouteWish", affinity: str, by_load: bool | None) -> None:
    from aiops.routing.v1.route_pb2 import Balancing

    if affinity:
        if affinity not in ("none", "session", "prefix"):
            raise CliError(f"--affinity {affinity} is none of none, session and prefix", Exit.USAGE)
        wish.balancing.affinity = Balancing.Affinity.Value(affinity)
    if by_load is not None:
        wish.balancing.by_load = by_load
        # Set explicitly, so that it counts as given even when it is off.
        wish.balancing.SetInParent()


def _target(text: str) -> "RouteTarget":
    from aiops.routing.v1.route_pb2 import RouteTarget

    model, _, weight = text.partition("=")
    if weight and not weight.isdecimal():
        raise CliError(f"{text} is neither MODEL nor MODEL=WEIGHT", Exit.USAGE, next_step="e.g. --target tiny=90")
    return RouteTarget(provider=RouteTarget.internal, model=model, weight=int(weight or 1))


def _read(file: str) -> dict[str, Any]:
    try:
        content = json.loads(sys.stdin.read() if file == "-" else Path(file).read_text())
    except (OSError, ValueError) as error:
        raise CliError(f"{file} cannot be read: {error}", Exit.USAGE, next_step="give a file with JSON") from error
    if not isinstance(content, dict):
        raise CliError(f"{file} holds no JSON object", Exit.USAGE, next_step="see RouteWish in /docs")
    return content


def _share(target: "RouteTarget") -> str:
    return f"{target.name}={target.weight}" if not target.mirror_percent else f"{target.name}~{target.mirror_percent} %"


def _every_route(session: "Session") -> "Iterator[Route]":
    from aiops.routing.v1.route_service_pb2 import ListRoutesRequest

    stub, page_token = _stub(session), ""
    while True:
        page = session.call(stub.ListRoutes, ListRoutesRequest(page_size=200, page_token=page_token))
        yield from page.routes
        page_token = page.next_page_token
        if not page_token:
            return


def _stub(session: "Session") -> "RouteServiceStub":
    from aiops.routing.v1.route_service_pb2_grpc import RouteServiceStub

    return session.stub(RouteServiceStub)
