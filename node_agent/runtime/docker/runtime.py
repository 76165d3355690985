"""Runs workloads in containers: each known by its labels, watched by the Engine's events, ended with all it started."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound

from mesh.loops import run_loop
from node_agent.runtime.docker import console, container
from node_agent.runtime.docker.engine import DockerEngine, EngineAwayError
from node_agent.runtime.docker.images import Images
from node_agent.runtime.docker.refusal import Refusal, judge_refusal
from node_agent.runtime.docker.usage import Meter
from node_agent.runtime.model import Ended, Instance, Launch, LaunchError, Marked, RuntimeReadiness, Usage

log = logging.getLogger(__name__)

_CONFLICT = 409
_NAME_TRIES, _NAME_PAUSE_S = 30, 0.1
_LOOK_AGAIN = timedelta(seconds=2)
_METER_EVERY = timedelta(seconds=2)
# The end of a container's log comes over another connection than the news of its end.
_LOG_PATIENCE_S = 5.0


@dataclass(slots=True)
class _Watched:
    instance: Instance
    log: Path | None
    ended: asyncio.Future[Ended]
    starved: bool = False
    following: "asyncio.Task[None] | None" = None
    meter: Meter = field(default_factory=Meter)


class DockerRuntime:
    """Containers of one owner, which is this node. Use from one event loop; `watch` must be running."""

    name = container.RUNTIME
    limits_memory = True

    def __init__(self, engine: DockerEngine, images: Images, owner: str, limits: container.Limits) -> None:
        self._engine, self._images, self._owner, self._limits = engine, images, owner, limits
        self._watched: dict[str, _Watched] = {}
        self._starting: set[str] = set()
        self._tasks: asyncio.TaskGroup | None = None

    def readiness(self) -> RuntimeReadiness:
        return RuntimeReadiness((self.name,) if self._engine.present else (), self._engine.trouble)

    async def watch(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._tasks = group
            try:
                group.create_task(run_loop("docker usage", self._measure, interval=_METER_EVERY))
                await run_loop("docker events", self._listen, interval=_LOOK_AGAIN)
            finally:
                self._tasks = None

    async def start(self, launch: Launch) -> Instance:
        self._starting.add(launch.mark)
        try:
            instance = await self._start(launch)
            watched = self._watch(instance, launch.log)
            self._follow(watched)
            if instance.pid == 0:  # it ended before it was watched, and nobody heard of it
                await self._look_unless_away(watched)
            return instance
        finally:
            self._starting.discard(launch.mark)

    async def adopt(self, instance: Instance) -> bool:
        watched = self._watch(instance, None)
        try:
            await self._look(watched)
        except EngineAwayError as error:
            log.warning("container %s is taken to run until it can be seen: %s", _short(instance), error.message)
        return not watched.ended.done()

    async def marked(self, owner: str) -> Sequence[Marked]:
        try:
            found = await self._ours(running=True)
        except EngineAwayError:
            return []
        marks = {each["Id"]: each["Labels"].get(container.MARK, "") for each in found}
        unknown = [container_id for container_id, mark in marks.items() if mark.startswith(owner)]
        return [Marked(await self._instance(container_id), marks[container_id]) for container_id in unknown]

    async def wait(self, instance: Instance) -> Ended:
        return await asyncio.shield(self._watched[instance.container_id].ended)

    async def stop(self, instance: Instance, grace: timedelta) -> Ended:
        watched, seconds = self._watched[instance.container_id], math.ceil(grace.total_seconds())
        while not watched.ended.done():
            try:
                with contextlib.suppress(NotFound):
                    await self._engine.call(lambda client: client.stop(instance.container_id, timeout=seconds))
                await self._look(watched)
            except EngineAwayError:
                await self._engine.until_present()
        await self._remove(instance.container_id)
        return await asyncio.shield(watched.ended)

    def usage(self, instance: Instance) -> Usage:
        watched = self._watched.get(instance.container_id)
        return watched.meter.usage if watched else Usage()

    def forget(self, instance: Instance) -> None:
        watched = self._watched.get(instance.container_id)
        if watched and watched.ended.done():
            del self._watched[instance.container_id]
            if self._tasks:
                self._tasks.create_task(self._remove(instance.container_id))

    async def tidy(self, images: Collection[str]) -> None:
        with contextlib.suppress(EngineAwayError):
            for each in await self._ours(running=False):
                known = each["Id"] in self._watched or each["Labels"].get(container.MARK) in self._starting
                if not known:
                    log.warning("container %s belongs to nothing that is wanted; it is removed", each["Names"])
                    await self._remove(each["Id"])
            await self._images.tidy(images)

    async def _start(self, launch: Launch) -> Instance:
        assert launch.containment is not None
        image, name = launch.containment.image, launch.containment.name
        try:
            has_health = await self._images.has_health(image)
            created = await self._create(launch, has_health, name)
        except APIError as error:
            raise _launch_error(judge_refusal(str(error.explanation), image, launch.argv)) from error
        try:
            await self._engine.call(lambda client: client.start(created))
        except APIError as error:
            await self._remove(created)
            raise _launch_error(judge_refusal(str(error.explanation), image, launch.argv)) from error
        return await self._instance(created)

    async def _create(self, launch: Launch, has_health: bool, name: str) -> str:
        """The new container's id. One of ours that has the name already is left of an earlier try."""

        def create(client: Any) -> str:
            arguments = container.creation(client, self._owner, launch, self._limits, has_health)
            return str(client.create_container(**arguments)["Id"])

        for _ in range(_NAME_TRIES):
            try:
                return await self._engine.call(create)
            except APIError as error:
                if error.status_code != _CONFLICT or not await self._clear(name):
                    raise
            # The Engine gives a name back only a moment after its container is gone.
            await asyncio.sleep(_NAME_PAUSE_S)
        return await self._engine.call(create)

    async def _clear(self, name: str) -> bool:
        """Removes the container of that name, if it is ours and none that runs as known."""
        try:
            inspected = await self._engine.call(lambda client: client.inspect_container(name))
        except NotFound:
            return True
        known = self._watched.get(inspected["Id"])
        if (inspected["Config"]["Labels"] or {}).get(container.OWNER) != self._owner:
            return False
        if known and not known.ended.done():
            return False
        await self._remove(inspected["Id"])
        return True

    async def _instance(self, container_id: str) -> Instance:
        inspected = await self._engine.call(lambda client: client.inspect_container(container_id))
        return container.instance_of(inspected)

    async def _ours(self, *, running: bool) -> list[Mapping[str, Any]]:
        filters = {"label": f"{container.OWNER}={self._owner}"}
        found: list[Mapping[str, Any]] = await self._engine.call(
            lambda client: client.containers(all=not running, filters=filters)
        )
        return found

    async def _remove(self, container_id: str) -> None:
        """What cannot be removed now is removed with the next tidying."""
        with contextlib.suppress(NotFound, EngineAwayError):
            try:
                await self._engine.call(lambda client: client.remove_container(container_id, v=True, force=True))
            except NotFound:
                raise
            except APIError as error:
                log.info("container %s cannot be removed yet: %s", container_id[:12], error.explanation)

    def _watch(self, instance: Instance, path: Path | None) -> _Watched:
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        return self._watched.setdefault(instance.container_id, _Watched(instance, path, ended))

    async def _listen(self) -> timedelta | None:
        """Connects, looks at everything, and then hears what happens until the Engine goes away."""
        try:
            await self._engine.connect()
            await self._look_at_all()
            await self._hear()
        except EngineAwayError:
            return None
        return timedelta(0)

    async def _hear(self) -> None:
        loop, filters = asyncio.get_running_loop(), {"label": f"{container.OWNER}={self._owner}", "type": "container"}

        def hand(event: Mapping[str, Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._react, event)

        hearing = asyncio.ensure_future(
            self._engine.stream(
                lambda client: client.events(filters=filters, decode=True),
                hand,
            )
        )
        # An Engine that hangs keeps the connection open; a call that it leaves unanswered tells.
        lost = asyncio.ensure_future(self._engine.until_lost())
        try:
            await asyncio.wait({hearing, lost}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hearing.cancel()
            lost.cancel()
            await asyncio.gather(hearing, lost, return_exceptions=True)

    def _react(self, event: Mapping[str, Any]) -> None:
        """Events only wake: what is so is looked at. That the kernel killed for memory is told nowhere else."""
        watched = self._watched.get(event.get("id", ""))
        if watched is None or self._tasks is None:
            return
        if event.get("Action") == "oom":
            watched.starved = True
        elif event.get("Action") in {"die", "destroy"}:
            self._tasks.create_task(self._look_unless_away(watched))

    async def _look_at_all(self) -> None:
        for watched in list(self._watched.values()):
            await self._look(watched)

    async def _look_unless_away(self, watched: _Watched) -> None:
        with contextlib.suppress(EngineAwayError):
            await self._look(watched)

    async def _look(self, watched: _Watched) -> None:
        """Sees whether it runs, whatever events have said. Raises EngineAwayError."""
        if watched.ended.done():
            return
        container_id = watched.instance.container_id
        try:
            inspected = await self._engine.call(lambda client: client.inspect_container(container_id))
        except NotFound:
            self._settle(watched, Ended())
            return
        watched.log = watched.log or Path(inspected["Config"]["Labels"][container.LOG])
        self._follow(watched)
        if not container.runs(inspected):
            if watched.following:
                await asyncio.wait({watched.following}, timeout=_LOG_PATIENCE_S)
            self._settle(watched, container.end_of(inspected, starved=watched.starved))

    def _settle(self, watched: _Watched, ended: Ended) -> None:
        if not watched.ended.done():
            watched.ended.set_result(ended)

    def _follow(self, watched: _Watched) -> None:
        """Begins to copy its log, unless that is under way."""
        under_way = watched.following is not None and not watched.following.done()
        if watched.log and self._tasks and not under_way:
            watched.following = self._tasks.create_task(self._copy_log(watched.instance.container_id, watched.log))

    async def _copy_log(self, container_id: str, path: Path) -> None:
        with contextlib.suppress(EngineAwayError):
            await console.follow(self._engine, container_id, path)

    async def _measure(self) -> None:
        for watched in list(self._watched.values()):
            if self._engine.present and not watched.ended.done():
                read = partial(_stats, container_id=watched.instance.container_id)
                with contextlib.suppress(APIError, EngineAwayError):
                    if not watched.meter.read(await self._engine.call(read)):
                        await self._look(watched)  # it has ended, and the event of that was lost


def _short(instance: Instance) -> str:
    return instance.container_id[:12]


def _launch_error(refusal: Refusal) -> LaunchError:
    return refusal.error(refusal.message)


def _stats(client: Any, container_id: str) -> Mapping[str, Any]:
    reading: Mapping[str, Any] = client.stats(container_id, stream=False, one_shot=True)
    return reading
