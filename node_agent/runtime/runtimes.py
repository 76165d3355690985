"""All runtimes of this machine behind the port of one: each instance belongs to the runtime that started it."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import timedelta

from node_agent.runtime.model import Ended, Instance, Launch, LaunchError, Marked, Runtime, RuntimeReadiness, Usage


class Runtimes:
    """Chooses by the launch: one with a containment goes to `containers`, any other to `processes`."""

    name = "runtimes"
    limits_memory = False

    def __init__(self, processes: Runtime, containers: Runtime | None) -> None:
        self._processes, self._containers = processes, containers
        self._all = [processes, *([containers] if containers else [])]

    def readiness(self) -> RuntimeReadiness:
        each = [runtime.readiness() for runtime in self._all]
        names = tuple(name for readiness in each for name in readiness.names)
        return RuntimeReadiness(names, "; ".join(readiness.trouble for readiness in each if readiness.trouble))

    async def watch(self) -> None:
        async with asyncio.TaskGroup() as group:
            for runtime in self._all:
                group.create_task(runtime.watch())

    async def start(self, launch: Launch) -> Instance:
        if launch.containment is None:
            return await self._processes.start(launch)
        if self._containers is None:
            raise LaunchError(f"this node runs no containers, so it cannot run {launch.containment.image}")
        return await self._containers.start(launch)

    async def adopt(self, instance: Instance) -> bool:
        return await self._of(instance).adopt(instance)

    async def marked(self, owner: str) -> Sequence[Marked]:
        return [marked for runtime in self._all for marked in await runtime.marked(owner)]

    async def wait(self, instance: Instance) -> Ended:
        return await self._of(instance).wait(instance)

    async def stop(self, instance: Instance, grace: timedelta) -> Ended:
        return await self._of(instance).stop(instance, grace)

    def usage(self, instance: Instance) -> Usage:
        return self._of(instance).usage(instance)

    def forget(self, instance: Instance) -> None:
        self._of(instance).forget(instance)

    async def tidy(self, images: Collection[str]) -> None:
        for runtime in self._all:
            await runtime.tidy(images)

    def _of(self, instance: Instance) -> Runtime:
        return next((each for each in self._all if each.name == instance.runtime), self._processes)
