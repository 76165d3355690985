"""`aiops up`: the whole mesh on this machine until Ctrl-C."""

import asyncio
import signal
import sys
from asyncio.subprocess import DEVNULL, STDOUT
from dataclasses import replace

from stack import logs
from stack.board import Board, LiveBoard, PlainBoard
from stack.engine import EngineInstallation
from stack.home import Home, take_lock
from stack.postgres import Postgres
from stack.service import StepFailedError
from stack.services import Stack
from stack.settings import Settings, home_directory, read
from stack.supervisor import Supervisor, end_leftovers


class PreparationError(StepFailedError):
    """The certificates or Envoy's bootstrap could not be made."""


async def run(nodes: int) -> None:
    """Run the stack of $AIOPS_HOME with so many node agents until SIGINT or SIGTERM.

    Raises AlreadyRunningError, SettingError or ServiceFailedError, each with what to do.
    """
    home = Home(home_directory())
    home.create()
    with take_lock(home):
        board = LiveBoard() if sys.stdout.isatty() else PlainBoard(sys.stdout)
        try:
            await _up(home, nodes, board)
        finally:
            board.close()


async def _up(home: Home, nodes: int, board: Board) -> None:
    leftovers = await end_leftovers(home)
    if leftovers:
        board.note(f"ended {len(leftovers)} processes that an earlier aiops left in {home.root}")
    settings = _with_database(read(), home)
    stack = Stack(home, settings, Preparation(home, settings).done)
    background = [] if settings.transformers or not nodes else [EngineInstallation(home.transformers).run]
    supervisor = Supervisor(home, list(stack.services(nodes)), board, settings.url, background)
    _stop_on_signals(supervisor)
    try:
        await supervisor.run()
    finally:
        Postgres.at(home.root).remove_sockets()


def _stop_on_signals(supervisor: Supervisor) -> None:
    """SIGINT, SIGTERM and a closed terminal stop the stack; one that was started with nohup outlives its terminal."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, supervisor.request_stop)


def _with_database(settings: Settings, home: Home) -> Settings:
    """The settings with the embedded database's address, where that is the one."""
    if not settings.embedded_database:
        return settings
    postgres = Postgres.at(home.root)
    postgres.ensure_password()
    return replace(settings, database_url=postgres.url())


class Preparation:
    """Runs `python -m stack.preparation` once, for everyone who waits for it."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self._home = home
        self._settings = settings
        self._lock = asyncio.Lock()
        self._prepared = False

    async def done(self) -> None:
        """Return once the preparation has succeeded."""
        async with self._lock:
            if not self._prepared:
                await self._run()
                self._prepared = True

    async def _run(self) -> None:
        ports = self._settings.ports
        with logs.open_log(self._home.log("preparation")) as log:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "stack.preparation",
                str(self._home.pki),
                str(self._home.envoy_bootstrap),
                f"127.0.0.1:{ports.xds}",
                f"127.0.0.1:{ports.envoy_admin}",
                env=dict(self._settings.inherited),
                cwd=self._home.run,
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
            )
            if await child.wait() != 0:
                raise PreparationError(f"preparing failed:\n{logs.tail(self._home.log('preparation'))}")
