"""`aiops login`, `logout` and `whoami`."""

import sys
from typing import Annotated

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, show_one, show_result

COLUMNS = {
    "user": lambda user: user.user_id,
    "email": lambda user: user.email,
    "name": lambda user: user.name,
    "roles": lambda user: list(user.roles),
    "organisation": lambda user: user.owner.org_id,
}


def login(
    context: typer.Context,
    email: Annotated[str, typer.Option(help="E-mail address; asked for when missing.")] = "",
    password_stdin: Annotated[bool, typer.Option(help="Read the password from standard input.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Sign in and remember it in ~/.config/aiops/credentials.json (or $AIOPS_CONFIG)."""
    session = connect(context)
    email = email or _ask("e-mail address")
    password = sys.stdin.readline().rstrip("\n") if password_stdin else _ask("password", hide=True)
    session.login(email, password)
    show_result(
        {"email": email, "url": session.settings.url}, f"signed in as {email} at {session.settings.url}", output
    )


def logout(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Forget the sign-in and end its tokens."""
    session = connect(context)
    ended = session.logout()
    sentence = f"signed out of {session.settings.url}" if ended else f"not signed in at {session.settings.url}"
    show_result({"url": session.settings.url, "signedOut": ended}, sentence, output)


def whoami(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Show the signed-in user."""
    from aiops.iam.v1.user_service_pb2 import GetMeRequest
    from aiops.iam.v1.user_service_pb2_grpc import UserServiceStub

    session = connect(context)
    show_one(session.call(session.stub(UserServiceStub).GetMe, GetMeRequest()).user, COLUMNS, output)


def _ask(what: str, *, hide: bool = False) -> str:
    if not sys.stdin.isatty():
        raise CliError(f"no {what} given", Exit.USAGE, next_step="use --email and --password-stdin without a terminal")
    answer: str = typer.prompt(what, hide_input=hide)
    return answer
