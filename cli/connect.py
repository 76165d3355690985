"""Makes the session that a command needs, without loading gRPC for commands that need none."""

from typing import TYPE_CHECKING

import typer

from cli.settings import Settings

if TYPE_CHECKING:
    from cli.session import Session


def connect(context: typer.Context) -> "Session":
    """A session with the gateway of the command line's settings."""
    from cli.session import Session

    return Session(settings_of(context))


def settings_of(context: typer.Context) -> Settings:
    """The settings that the root command read."""
    settings = context.find_object(Settings)
    assert settings is not None
    return settings
