"""`aiops up`, `demo` and `status`: the platform on this machine."""

import asyncio
from typing import Annotated

import typer

from cli.connect import settings_of
from cli.exits import CliError, Exit
from cli.output import Format, Output, show_json, show_table

COLUMNS = ("service", "state", "address", "pid", "restarts", "memory", "waits")


def up(nodes: Annotated[int, typer.Option(min=0, max=32, help="How many node agents to run.")] = 1) -> None:
    """Run the whole platform on this machine until Ctrl-C."""
    from stack.home import AlreadyRunningError
    from stack.runner import ServiceFailedError
    from stack.settings import PortTakenError, SettingError
    from stack.up import run

    try:
        asyncio.run(run(nodes))
    except (AlreadyRunningError, PortTakenError) as error:
        raise CliError(str(error), Exit.CONFLICT) from error
    except SettingError as error:
        raise CliError(str(error), Exit.USAGE) from error
    except ServiceFailedError as error:
        raise CliError(str(error), Exit.FAILED) from error


def demo() -> None:
    """Bring up a platform with two nodes, serve a model, show it, stop everything."""
    from stack.demo.scenario import run
    from stack.demo.story import DemoFailedError

    try:
        asyncio.run(run())
    except DemoFailedError as error:
        raise CliError(str(error), Exit.FAILED) from error


def status(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Show the services of the platform that `aiops up` runs in $AIOPS_HOME."""
    from dataclasses import asdict

    from stack.home import Home, is_running, read_state
    from stack.memory import tree_mb

    home = Home(settings_of(context).home)
    state = read_state(home)
    if state is None or not is_running(home):
        raise CliError(f"no platform runs in {home.root}", Exit.NOT_REACHABLE, next_step="start it with `aiops up`")
    if output is Format.JSON:
        show_json(asdict(state))
        return
    rows = (
        _texts(report.name, report.state, report.address, report.pid, report.restarts, _memory(report.pid), report.note)
        for report in state.services
    )
    show_table(COLUMNS, rows)
    typer.echo(f"{tree_mb(state.pid):.0f} MB in all, with the supervisor and what nodes run")


def _memory(pid: int | None) -> str:
    from stack.memory import tree_mb

    return "" if pid is None else f"{tree_mb(pid):.0f} MB"


def _texts(*values: object) -> list[str]:
    return ["" if value is None else str(value) for value in values]
