"""`python -m node_agent [run]` runs the agent, `python -m node_agent join TOKEN` joins a mesh."""

import argparse
import asyncio
import sys
from functools import partial

from mesh.clock import SystemClock
from mesh.errors import DomainError
from mesh.process import run_service
from node_agent.bootstrap import only_agent, run_agent
from node_agent.enrollment.identity import IdentityStore
from node_agent.settings import AgentSettings, read_settings

# sysexits.h: EX_CONFIG
_NOT_SET_UP = 78


def main(arguments: list[str]) -> int:
    """Answers the exit status."""
    options = _parser().parse_args(arguments)
    try:
        settings = read_settings()
        if options.command == "join":
            _join(settings, options.controller, options.token or options.given_token)
            if options.install:
                return _install(settings)
            if not options.run:
                return 0
        return _run(settings)
    except (DomainError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return _NOT_SET_UP


def _run(settings: AgentSettings) -> int:
    with only_agent(settings.home):
        IdentityStore(settings.home).load()  # a home that holds no node is said before anything starts
        return run_service("node_agent", partial(run_agent, settings), log_level=settings.observability.log_level)


def _join(settings: AgentSettings, controller: str, token: str) -> None:
    from node_agent.enrollment.join import join  # cryptography is not needed to run

    store = IdentityStore(settings.home)
    if not token:
        store.load()  # a machine that has joined needs none
        return
    identity, new = asyncio.run(join(store, controller, token, SystemClock()))
    said = "joined as" if new else "this machine has joined already, as"
    sys.stderr.write(f"{said} node {identity.node_id}; sessions go to {identity.session_address}\n")


def _install(settings: AgentSettings) -> int:
    from node_agent.enrollment.unit import install

    sys.stderr.write(f"{install(settings)}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m node_agent", description="The agent of one machine.")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("run", help="run the agent (the default)")
    joining = commands.add_parser("join", help="trade a join token for this machine's certificate")
    joining.add_argument("given_token", nargs="?", default="", metavar="TOKEN", help="the one-use join token")
    joining.add_argument("--token", default="", help="the same")
    joining.add_argument("--controller", default="", help="where to join, when not where the token says")
    joining.add_argument("--run", action="store_true", help="then run the agent")
    joining.add_argument("--install", action="store_true", help="then let systemd run the agent, now and at each boot")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
