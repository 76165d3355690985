"""`aiops flags …`: switches that programs read while they run."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, show_many, show_one

if TYPE_CHECKING:
    from aiops.flags.v1.flag_service_pb2 import Flag, FlagRule
    from aiops.flags.v1.flag_service_pb2_grpc import FlagServiceStub

    from cli.session import Session

app = typer.Typer(no_args_is_help=True, help="Switches that programs read while they run.")

NameArgument = Annotated[str, typer.Argument(metavar="FLAG", help="The flag's name.")]
COLUMNS = {
    "flag": lambda found: found.name,
    "variants": lambda found: ", ".join(sorted(found.variants)),
    "default": lambda found: found.default_variant,
    "rules": lambda found: str(len(found.rules)),
    "state": lambda found: "disabled" if found.disabled else "enabled",
    "version": lambda found: str(found.version),
    "what for": lambda found: found.description,
}


@app.command("list")
def list_flags(context: typer.Context, output: Output = Format.TABLE) -> None:
    """List the organisation's flags."""
    show_many(list(_every_flag(connect(context))), COLUMNS, output)


@app.command("set")
def set_flag(
    context: typer.Context,
    flag: NameArgument,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="NAME=VALUE in JSON; on=true and off=false when missing.")
    ] = None,
    default: Annotated[str, typer.Option(help="The variant for whom no rule holds.")] = "off",
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", help="VARIANT:user=ID,org=ID,percent=N; the first that holds decides. Can be repeated."),
    ] = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    disabled: Annotated[bool, typer.Option("--disabled", help="Programs take their own default.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Make a flag, or replace all of it."""
    from aiops.flags.v1.flag_service_pb2 import SetFlagRequest
    from google.protobuf.json_format import ParseDict

    request = SetFlagRequest(name=flag, default_variant=default, description=description, disabled=disabled)
    for name, value in (_variant(text) for text in variant or ["on=true", "off=false"]):
        ParseDict(value, request.variants[name])
    request.rules.extend(_rule(text) for text in rule or [])
    session = connect(context)
    show_one(session.call(_stub(session).SetFlag, request).flag, COLUMNS, output)


@app.command("delete")
def delete_flag(context: typer.Context, flag: NameArgument, output: Output = Format.TABLE) -> None:
    """Take a flag away; programs take their own default."""
    from aiops.flags.v1.flag_service_pb2 import DeleteFlagRequest

    session = connect(context)
    show_one(session.call(_stub(session).DeleteFlag, DeleteFlagRequest(name=flag)).flag, COLUMNS, output)


def _variant(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError as error:
        next_step = """e.g. --variant on=true, or --variant 'model="tiny"'"""
        raise CliError(f"{text} is no NAME=VALUE in JSON", Exit.USAGE, next_step=next_step) from error


def _rule(text: str) -> "FlagRule":
    from aiops.flags.v1.flag_service_pb2 import FlagRule

    variant, _, conditions = text.partition(":")
    found = FlagRule(variant=variant)
    for condition in filter(None, conditions.split(",")):
        name, _, value = condition.partition("=")
        try:
            if name == "percent":
                found.percent = float(value)
                continue
            {"user": found.user_ids, "org": found.org_ids}[name].append(value)
        except (KeyError, ValueError) as error:
            next_step = "e.g. --rule on:user=user-1,user=user-2 --rule on:percent=10"
            raise CliError(f"{condition} is no condition", Exit.USAGE, next_step=next_step) from error
    return found


def _every_flag(session: "Session") -> "Iterator[Flag]":
    from aiops.flags.v1.flag_service_pb2 import ListFlagsRequest

    stub, page_token = _stub(session), ""
    while True:
        page = session.call(stub.ListFlags, ListFlagsRequest(page_size=200, page_token=page_token))
        yield from page.flags
        page_token = page.next_page_token
        if not page_token:
            return


def _stub(session: "Session") -> "FlagServiceStub":
    from aiops.flags.v1.flag_service_pb2_grpc import FlagServiceStub

    return session.stub(FlagServiceStub)
