"""Images: which may run here, how they get here, and when those that nobody needs any more go."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

from docker.errors import APIError, ImageNotFound, NotFound

from mesh.clock import Clock
from mesh.errors import DomainError, Kind
from mesh.loops import Backoff
from node_agent.runtime.docker.engine import DockerEngine, EngineAwayError
from node_agent.runtime.docker.pull import Arrival, ImagePullError, Progress, PullCutError, pull

log = logging.getLogger(__name__)

ENGINE_LABEL = "io.aiops.engine"


class ImageNotAllowedError(DomainError):
    """The node does not run this image."""

    kind, reason = Kind.PRECONDITION, "IMAGE_NOT_ALLOWED"


@dataclass(frozen=True, slots=True)
class ImageRules:
    """`allowed` are names or patterns with `*` and `?`; without any, none is. Pulled images stay `keep` unused.

    A pull that fails by what may pass is tried so many times, with such pauses. With `always`, a tag that is here is
    looked up in its registry whenever it is wanted; a digest means the same for ever.
    """

    allowed: tuple[str, ...] = ()
    keep: timedelta = timedelta(days=7)
    tries: int = 4
    pause: Backoff = field(default_factory=lambda: Backoff(timedelta(seconds=2), timedelta(minutes=1)))
    always: bool = False

    def check(self, image: str) -> None:
        """Raises ImageNotAllowedError, naming the setting."""
        if any(fnmatchcase(image, pattern) for pattern in self.allowed):
            return
        raise ImageNotAllowedError(
            f"image {image} may not run on this node: AIOPS_IMAGES_ALLOWED and AIOPS_IMAGE_* allow "
            f"{', '.join(self.allowed) or 'none'}; use one of those, or have the node's operator add it",
            image=image,
        )


class Images:
    """The images of one node. `shelf` remembers those that were pulled here: only they are ever removed."""

    def __init__(self, engine: DockerEngine, shelf: Path, rules: ImageRules, clock: Clock) -> None:
        self._engine, self._shelf, self._rules, self._clock = engine, shelf, rules, clock
        self._pulls: dict[str, _Pull] = {}

    async def obtain(self, image: str, progress: Progress) -> Mapping[str, str]:
        """Has the image here, pulled where it is missing, with its arrival told; answers its labels.

        Waits while Docker Engine is away. Raises ImageNotAllowedError, ImagePullError.
        """
        self._rules.check(image)
        if self._rules.always and "@" not in image:
            await self._renew(image, progress)
        while True:
            await self._engine.until_present()
            with contextlib.suppress(EngineAwayError):
                try:
                    labels = await self._labels(image)
                    if image in self._used():
                        self._use(image)
                    return labels
                except ImageNotFound:
                    await self._join(image, progress)

    async def _renew(self, image: str, progress: Progress) -> None:
        """Has the tag as its registry has it now; the one that is here will do while the registry is away."""
        await self._engine.until_present()
        try:
            await self._labels(image)
            await self._join(image, progress)
        except (ImageNotFound, EngineAwayError):
            return
        except ImagePullError as error:
            log.warning("%s; the image that is here is used", error.message)

    async def has_health(self, image: str) -> bool:
        """Whether the image brings a health check of its own."""
        inspected = await self._engine.call(lambda client: client.inspect_image(image))
        return bool(inspected["Config"].get("Healthcheck"))

    async def tidy(self, wanted: Collection[str]) -> None:
        """Removes images that were pulled here, are not wanted and were not used for long."""
        now = self._clock.now()
        for image, used_at in self._used().items():
            if image in wanted:
                self._use(image)
            elif now - used_at > self._rules.keep and self._used().get(image) == used_at:
                await self._remove(image)

    async def _labels(self, image: str) -> Mapping[str, str]:
        inspected = await self._engine.call(lambda client: client.inspect_image(image))
        return dict(inspected["Config"].get("Labels") or {})

    async def _join(self, image: str, progress: Progress) -> None:
        """Waits for the one pull of the image, which goes on as long as anybody waits for it."""
        shared = self._pulls.get(image)
        if shared is None or shared.task.done():
            shared = self._pulls[image] = _Pull()
            shared.task = asyncio.ensure_future(self._pull(image, shared.tell))
        try:
            with shared.heard_by(progress):
                await asyncio.shield(shared.task)
        finally:
            if not shared.listeners and self._pulls.get(image) is shared:
                del self._pulls[image]
                shared.task.cancel()
                await asyncio.gather(shared.task, return_exceptions=True)

    async def _pull(self, image: str, tell: Progress) -> None:
        """Pulls, again after a pause where that may help. Raises ImagePullError, EngineAwayError."""
        loop = asyncio.get_running_loop()
        for failures in range(1, self._rules.tries + 1):
            log.info("pulling image %s", image)
            try:
                await pull(self._engine, image, lambda arrival: _hand(loop, tell, arrival))
            except PullCutError as error:
                if failures == self._rules.tries:
                    raise
                pause = self._rules.pause.pause(failures)
                again = f"tried again in {pause.total_seconds():.0f} s ({failures} of {self._rules.tries})"
                log.warning("%s; %s", error.message, again)
                tell(Arrival(trouble=f"{error.message}; {again}"))
                await asyncio.sleep(pause.total_seconds())
            else:
                self._use(image)
                return

    async def _remove(self, image: str) -> None:
        try:
            await self._engine.call(lambda client: client.remove_image(image))
            log.info("image %s is removed: nobody used it for %s", image, self._rules.keep)
        except NotFound:
            pass
        except (APIError, EngineAwayError) as error:
            log.info("image %s stays: %s", image, error)
            return
        self._write({name: used for name, used in self._used().items() if name != image})

    def _use(self, image: str) -> None:
        self._write({**self._used(), image: self._clock.now()})

    def _used(self) -> dict[str, datetime]:
        try:
            document = json.loads(self._shelf.read_bytes())
            return {image: datetime.fromisoformat(used_at) for image, used_at in document.items()}
        except (OSError, ValueError, AttributeError):
            return {}  # then none is removed, which harms nobody

    def _write(self, used: Mapping[str, datetime]) -> None:
        temporary = self._shelf.with_suffix(".new")
        try:
            temporary.write_text(json.dumps({image: at.isoformat() for image, at in used.items()}))
            temporary.replace(self._shelf)
        except OSError as error:
            log.warning("cannot remember which images were pulled: %s", error)


class _Pull:
    """A pull that is under way, for as many as want the image. Those who come later hear at once how far it is."""

    def __init__(self) -> None:
        self.task: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.listeners: list[Progress] = []
        self._last = Arrival()

    def tell(self, arrival: Arrival) -> None:
        self._last = arrival
        for listener in self.listeners:
            listener(arrival)

    @contextlib.contextmanager
    def heard_by(self, listener: Progress) -> Iterator[None]:
        self.listeners.append(listener)
        listener(self._last)
        try:
            yield
        finally:
            self.listeners.remove(listener)


def _hand(loop: asyncio.AbstractEventLoop, tell: Progress, arrival: Arrival) -> None:
    """From the reading thread to the loop."""
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(tell, arrival)
