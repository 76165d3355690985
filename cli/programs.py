"""Commands that become another program of the platform."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

SERVICES = {
    "controller": "controller",
    "inference_router": "inference_router",
    "gateway": "gateway",
    "realtime": "gateway.realtime",
    "node-agent": "node_agent",
}


def become_module(module: str, *arguments: str) -> NoReturn:
    """Replace this process by `python -m MODULE`, so that signals and exit status are the module's own."""
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - no shell is wanted


def runner(module: str) -> Callable[[], None]:
    """A command that becomes the service."""

    def run() -> None:
        become_module(module)

    return run
