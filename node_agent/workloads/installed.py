"""The engines that this machine can start, some of which may still be arriving."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from node_agent.engines.choice import choose
from node_agent.engines.custom import Custom
from node_agent.engines.engine import Engine, EngineUnavailableError
from node_agent.engines.llamacpp import LlamaCpp
from node_agent.engines.transformers import Transformers
from node_agent.engines.triton import Triton
from node_agent.engines.vllm import Vllm

log = logging.getLogger(__name__)

_POLL_S = 0.5
# What serves a framework of its own name.
_OWN = ("llamacpp", "triton")
_ENGINES: Mapping[str, Callable[[Path, Mapping[str, str]], Engine]] = {
    "transformers": Transformers,
    "vllm": Vllm,
    "triton": Triton,
    "llamacpp": LlamaCpp,
}
_IN_IMAGES: dict[str, Engine] = {
    "custom": Custom(),
    "llamacpp": LlamaCpp(Path("llama-server")),
    "transformers": Transformers(Path("transformers")),
    "triton": Triton(Path("tritonserver")),
    "vllm": Vllm(Path("vllm")),
}


class InstalledEngines:
    """Looks anew each time: an engine's environment may be installed while the agent runs."""

    def __init__(
        self,
        executables: Mapping[str, Path],
        environment: Mapping[str, str],
        patience: timedelta,
        images: Mapping[str, str] | None = None,
    ) -> None:
        self._executables = executables
        self._environment = environment
        self._patience = patience
        self.images = images or {}

    def found(self) -> list[Engine]:
        """What can be started now."""
        return [
            engine(self._executables[name], self._environment)
            for name, engine in _ENGINES.items()
            # What is not installed for all engines alike is there, or its start says that it is not.
            if name in self._executables and (name == "vllm" or self._executables[name].exists())
        ]

    def names(self) -> tuple[str, ...]:
        """What can be started now, or soon."""
        return tuple(name for name in _ENGINES if name in self._executables or name in self.images)

    def named(self, name: str) -> Engine | None:
        """The engine of that name, if it can be started now."""
        return next((each for each in self.found() if each.name == name), None)

    def in_image(self, image: str, label: str, framework: str) -> Engine:
        """The engine that the image holds: as its label says, as the node's settings do, or that of the framework.

        Inside an image programs are found by its own path, and nothing of the agent's environment reaches them.
        """
        by_setting = next((name for name, each in self.images.items() if each == image), framework)
        return self.named_in_image(label or by_setting)

    def named_in_image(self, name: str) -> Engine:
        """The engine of that name as an image holds it. Raises EngineUnavailableError."""
        engine = _IN_IMAGES.get(name)
        if engine is None:
            raise EngineUnavailableError(f"no image can hold engine {name}; engines are {', '.join(_IN_IMAGES)}")
        return engine

    def own(self) -> Engine:
        """Runs a command of the deployment's own as a process."""
        return Custom(self._environment)

    async def choose(self, framework: str, task: str, has_gpu: bool, free_memory_mb: int) -> Engine:
        """The engine for such a model, waited for while it is being installed. Raises EngineUnavailableError."""
        if framework in _OWN:
            await self._wait_installed(framework)
        elif "vllm" not in self._executables:
            await self._wait_installed("transformers")
        return choose(framework, task, self.found(), has_gpu, free_memory_mb)

    async def _wait_installed(self, name: str) -> None:
        executable = self._executables.get(name)
        if executable is None or self.named(name):
            return
        log.info("waiting for the engine environment %s", executable)
        try:
            async with asyncio.timeout(self._patience.total_seconds()):
                await self._until_found(name)
        except TimeoutError as error:
            raise EngineUnavailableError(
                f"the engine environment {executable} did not appear within {self._patience}; install it "
                f"(make up does) or point AIOPS_ENGINE_{name.upper()} at it",
                path=str(executable),
            ) from error

    async def _until_found(self, name: str) -> None:
        while True:
            if self.named(name):
                return
            await asyncio.sleep(_POLL_S)
