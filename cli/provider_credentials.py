"""`aiops credentials …`: what the platform shows to providers outside."""

import sys
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, note, show_many, show_one
from cli.paging import ALL_HELP, MORE, at_most

if TYPE_CHECKING:
    from aiops.credentials.v1.credential_service_pb2 import Credential
    from aiops.credentials.v1.credential_service_pb2_grpc import CredentialServiceStub

    from cli.session import Session

app = typer.Typer(no_args_is_help=True, help="What the platform shows to providers outside.")

CredentialArgument = Annotated[str, typer.Argument(metavar="CREDENTIAL", help="Credential id or name.")]
COLUMNS = {
    "credential": lambda found: found.credential_id,
    "name": lambda found: found.name,
    "since": lambda found: found.changed_at.ToJsonString(),
}


@app.command("ls")
def list_credentials(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=0, help=ALL_HELP)] = 100,
    output: Output = Format.TABLE,
) -> None:
    """List the credentials; their secrets are never shown."""
    rows, more = at_most(limit, _every_credential(connect(context)))
    show_many(rows, COLUMNS, output)
    if more:
        note(MORE)


@app.command("create")
def create_credential(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What routes call it.")],
    output: Output = Format.TABLE,
) -> None:
    """Keep a provider's key, read from a pipe or the keyboard."""
    from aiops.credentials.v1.credential_service_pb2 import CreateCredentialRequest

    session = connect(context)
    request = CreateCredentialRequest(name=name, secret=_secret(), request_id=uuid.uuid4().hex)
    show_one(session.call(_stub(session).CreateCredential, request).credential, COLUMNS, output)


@app.command("rotate")
def rotate_credential(context: typer.Context, credential: CredentialArgument, output: Output = Format.TABLE) -> None:
    """Put another key in the place of the old one, read as `create` reads it."""
    from aiops.credentials.v1.credential_service_pb2 import RotateCredentialRequest

    session = connect(context)
    request = RotateCredentialRequest(credential_id=credential, secret=_secret())
    show_one(session.call(_stub(session).RotateCredential, request).credential, COLUMNS, output)


@app.command("delete")
def delete_credential(context: typer.Context, credential: CredentialArgument, output: Output = Format.TABLE) -> None:
    """Forget a key that no route uses."""
    from aiops.credentials.v1.credential_service_pb2 import DeleteCredentialRequest

    session = connect(context)
    request = DeleteCredentialRequest(credential_id=credential)
    show_one(session.call(_stub(session).DeleteCredential, request).credential, COLUMNS, output)


def _secret() -> str:
    """Never an argument, which every user of the machine could read."""
    given = str(typer.prompt("Key", hide_input=True)) if sys.stdin.isatty() else sys.stdin.readline()
    secret = given.strip()
    if not secret:
        raise CliError("there is no key", Exit.USAGE, next_step="send it through a pipe, or type it")
    return secret


def _every_credential(session: "Session") -> "Iterator[Credential]":
    from aiops.credentials.v1.credential_service_pb2 import ListCredentialsRequest

    stub, page_token = _stub(session), ""
    while True:
        page = session.call(stub.ListCredentials, ListCredentialsRequest(page_size=200, page_token=page_token))
        yield from page.credentials
        page_token = page.next_page_token
        if not page_token:
            return


def _stub(session: "Session") -> "CredentialServiceStub":
    from aiops.credentials.v1.credential_service_pb2_grpc import CredentialServiceStub

    return session.stub(CredentialServiceStub)
