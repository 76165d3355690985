"""The entry point `aiops`: all commands, and how they end."""

import sys
from typing import Annotated

import typer

from cli import (
    account,
    adapters,
    autoscaling,
    batches,
    chat,
    conversations,
    deployments,
    downloads,
    events,
    flags,
    models,
    nodes,
    placing,
    programs,
    provider_credentials,
    quotas,
    reconciling,
    replica_sets,
    rollouts,
    routes,
    routing,
    stack,
    usage,
)
from cli.exits import CliError, Exit
from cli.settings import read

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 platform not reachable, 4 not signed in or not allowed, "
    "5 not found, 6 in conflict with the present state."
)

app = typer.Typer(
    name="aiops",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Runs models on a fleet of nodes and serves them.",
    epilog=EXIT_CODES,
)
app.add_typer(nodes.app, name="nodes")
app.add_typer(nodes.joining, name="node")
app.add_typer(models.app, name="models")
app.add_typer(deployments.app, name="deployments")
app.add_typer(adapters.app, name="adapters")
app.add_typer(replica_sets.app, name="replica-sets")
app.add_typer(replica_sets.rollout, name="rollout")
routes.app.add_typer(routing.rules, name="rules")
routes.app.command("for")(routing.route_for)
app.add_typer(routes.app, name="routes")
app.add_typer(rollouts.app, name="rollouts")
app.add_typer(flags.app, name="flags")
app.add_typer(provider_credentials.app, name="credentials")
app.add_typer(quotas.app, name="quotas")
app.add_typer(batches.files, name="files")
app.add_typer(batches.batches, name="batches")
app.add_typer(conversations.app, name="conversations")
app.add_typer(events.app, name="events")
models.app.command()(downloads.download)
models.app.command()(downloads.downloads)
models.app.command("cancel-download")(downloads.cancel_download)
app.command()(stack.up)
app.command()(stack.demo)
app.command()(stack.status)
app.command()(account.login)
app.command()(account.logout)
app.command()(account.whoami)
app.command()(deployments.deploy)
app.command()(placing.plan)
app.command()(replica_sets.scale)
app.command()(autoscaling.autoscale)
app.command()(deployments.logs)
app.command()(chat.chat)
app.add_typer(usage.app, name="usage")
usage.app.command("reconcile")(reconciling.reconcile)
app.command()(usage.requests)
for name, module in programs.SERVICES.items():
    app.command(name, help=f"Run the {module} alone, by its settings.")(programs.runner(module))


@app.callback()
def root(
    context: typer.Context,
    url: Annotated[str, typer.Option(help="The gateway; $AIOPS_URL, http://127.0.0.1:8080 by default.")] = "",
) -> None:
    """Read the settings for every command."""
    context.obj = read(url)


def main() -> None:
    """Run the command line and exit."""
    try:
        app()
    except CliError as error:
        for line in error.lines():
            typer.echo(line, err=True)
        sys.exit(error.code)
    except BrokenPipeError:
        sys.exit(Exit.OK)


if __name__ == "__main__":
    main()
