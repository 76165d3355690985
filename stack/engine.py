"""Installs the engines' environment beside the running stack; nodes wait for it when they are to deploy."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from stack.engine_environment import DEFAULT_CACHE, EngineEnvironmentError, ensure_engine_environment
from stack.service import Report, State

NAME = "engine"


class EngineInstallation:
    """Makes `link` lead to the `transformers` executable once its environment is complete, and not before."""

    def __init__(self, link: Path, cache: Path = DEFAULT_CACHE) -> None:
        self._link = link
        self._cache = cache

    async def run(self, show: Callable[[Report], None]) -> None:
        """Install, showing how far it is. A failure is shown and leaves the rest of the stack alone."""
        loop = asyncio.get_running_loop()

        def tell(line: str) -> None:
            loop.call_soon_threadsafe(show, self._report(State.INSTALLING, line))

        show(self._report(State.INSTALLING))
        try:
            executable = await asyncio.to_thread(ensure_engine_environment, self._cache, tell)
            self._lead_to(executable)
        except (EngineEnvironmentError, OSError) as error:
            show(self._report(State.FAILED, f"{error}; models cannot be deployed here"))
            return
        show(self._report(State.READY))

    def _lead_to(self, executable: Path) -> None:
        self._link.parent.mkdir(parents=True, exist_ok=True)
        if self._link.is_symlink() and self._link.readlink() == executable:
            return
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(executable)

    def _report(self, state: State, note: str = "") -> Report:
        return Report(name=NAME, state=state, address="transformers", note=note)
