"""Which commands of a deployment's own may run here without a container."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from mesh.errors import DomainError, Kind


class CommandNotAllowedError(DomainError):
    """The node runs no such command as its agent's user."""

    kind, reason = Kind.PRECONDITION, "COMMAND_NOT_ALLOWED"


# What makes a program load code, or find other programs: for whoever may write that, a command is allowed already.
_LOADS_CODE = ("LD_*", "DYLD_*", "GCONV_PATH", "PATH", "PYTHON*", "HOME", "BASH_ENV", "ENV", "*_PRELOAD", "AIOPS_*")


def check_environment(environment: Iterable[str], allowed: Sequence[str]) -> None:
    """Raises CommandNotAllowedError for a variable that would bring code of its own into the agent's user's process."""
    for name in environment:
        if not allowed and any(fnmatchcase(name, pattern) for pattern in _LOADS_CODE):
            raise CommandNotAllowedError(
                f"variable {name} may not be set for an engine without a container, since it can bring code with it; "
                "deploy with an image, or without the variable",
                variable=name,
            )


def check_command(command: Sequence[str], allowed: Sequence[str]) -> None:
    """Raises CommandNotAllowedError: a command of the deployment's own can do whatever the agent can."""
    if not command:
        raise CommandNotAllowedError("a custom deployment needs an image or a command; name one of them")
    if not any(fnmatchcase(command[0], pattern) for pattern in allowed):
        raise CommandNotAllowedError(
            f"command {command[0]} may not run on this node, where it would run as the agent's own user: "
            f"AIOPS_COMMANDS_ALLOWED is {','.join(allowed) or 'empty'}; use an image, or have its operator add it",
            command=command[0],
        )
