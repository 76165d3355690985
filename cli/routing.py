"""`aiops routes rules …` and `aiops routes for …`: which model a task is for."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, show_many, show_one

if TYPE_CHECKING:
    from aiops.routing.v1.rules_service_pb2 import RoutingRule
    from aiops.routing.v1.rules_service_pb2_grpc import RoutingRulesServiceStub

    from cli.session import Session

rules = typer.Typer(no_args_is_help=True, help="Which model a task is for.")

COLUMNS = {
    "rules": lambda found: ", ".join(_told(rule) for rule in found.rules),
    "default": lambda found: found.default_model,
    "fallback": lambda found: found.fallback_model,
    "version": lambda found: str(found.version),
}
CONSIDERED = {
    "model": lambda found: found.model,
    "rule": lambda found: found.rule,
    "chosen": lambda found: "yes" if found.chosen else "",
    "why not": lambda found: found.reason,
}


@rules.command("get")
def get_rules(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Show the organisation's rules."""
    from aiops.routing.v1.rules_service_pb2 import GetRoutingRulesRequest

    session = connect(context)
    show_one(session.call(_stub(session).GetRoutingRules, GetRoutingRulesRequest()).rules, COLUMNS, output)


@rules.command("set")
def set_rules(
    context: typer.Context,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", help="TASK=MODEL, or TASK/COMPLEXITY=MODEL with low, medium or high. Can be repeated."),
    ] = None,
    default: Annotated[str, typer.Option(help="For tasks without a rule.")] = "",
    fallback: Annotated[str, typer.Option(help="When nothing before it can answer.")] = "",
    version: Annotated[int, typer.Option(min=0, help="Only when the rules are still at this version.")] = 0,
    output: Output = Format.TABLE,
) -> None:
    """Replace the organisation's rules by these."""
    from aiops.routing.v1.rules_service_pb2 import SetRoutingRulesRequest

    session = connect(context)
    request = SetRoutingRulesRequest(
        rules=map(_rule, rule or []), default_model=default, fallback_model=fallback, version=version
    )
    show_one(session.call(_stub(session).SetRoutingRules, request).rules, COLUMNS, output)


def route_for(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="E.g. chat, summarization, code_generation.")] = "",
    complexity: Annotated[str, typer.Option(help="low, medium or high.")] = "",
    prefer: Annotated[str, typer.Option(help="The model that is wanted.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Say which model a task is for and why, without calling any."""
    from aiops.routing.v1.rules_service_pb2 import RouteRequest

    session = connect(context)
    decision = session.call(
        _stub(session).Route, RouteRequest(task_type=task, complexity=complexity, preferred_model=prefer)
    )
    if output is Format.JSON:
        show_one(decision, {}, output)
    else:
        show_many(decision.considered, CONSIDERED, output)


def _rule(text: str) -> "RoutingRule":
    from aiops.routing.v1.rules_service_pb2 import RoutingRule

    task, _, model = text.partition("=")
    task_type, _, complexity = task.partition("/")
    if not task_type or not model:
        raise CliError(f"{text} is not TASK=MODEL", Exit.USAGE, next_step="e.g. --rule chat=tiny")
    return RoutingRule(task_type=task_type, complexity=complexity, model=model)


def _told(rule: "RoutingRule") -> str:
    return f"{rule.task_type}{'/' if rule.complexity else ''}{rule.complexity}={rule.model}"


def _stub(session: "Session") -> "RoutingRulesServiceStub":
    from aiops.routing.v1.rules_service_pb2_grpc import RoutingRulesServiceStub

    return session.stub(RoutingRulesServiceStub)
