"""Images: which may run here, how they get here, and when those that nobody needs any more go."""

import asyncio
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from docker import APIClient
from docker.errors import APIError, ImageNotFound, NotFound
from docker.utils import parse_repository_tag

from mesh.clock import Clock
from mesh.errors import DomainError, Kind
from node_agent.runtime.docker.engine import DockerEngine, EngineAwayError

log = logging.getLogger(__name__)

ENGINE_LABEL = "io.aiops.engine"

Progress = Callable[[int], None]


class ImageNotAllowedError(DomainError):
    """The node does not run this image."""

    kind, reason = Kind.PRECONDITION, "IMAGE_NOT_ALLOWED"


class ImagePullError(DomainError):
    """The image is not here and cannot be brought."""

    kind, reason = Kind.UNAVAILABLE, "IMAGE_PULL_FAILED"


@dataclass(frozen=True, slots=True)
class ImageRules:
    """`allowed` are names or patterns with `*` and `?`; without any, none is. Pulled images stay `keep` unused."""

    allowed: tuple[str, ...] = ()
    keep: timedelta = timedelta(days=7)

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
        self._pulling: dict[str, asyncio.Lock] = {}

    async def obtain(self, image: str, progress: Progress) -> Mapping[str, str]:
        """Has the image here, pulled with its percent told where it is missing; answers its labels.

        Waits while Docker Engine is away. Raises ImageNotAllowedError, ImagePullError.
        """
        self._rules.check(image)
        async with self._pulling.setdefault(image, asyncio.Lock()):
            while True:
                await self._engine.until_present()
                try:
                    return await self._labels(image, progress)
                except EngineAwayError:
                    continue

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
            elif now - used_at > self._rules.keep:
                await self._remove(image)

    async def _labels(self, image: str, progress: Progress) -> Mapping[str, str]:
        try:
            inspected = await self._engine.call(lambda client: client.inspect_image(image))
        except ImageNotFound:
            await self._pull(image, progress)
            inspected = await self._engine.call(lambda client: client.inspect_image(image))
        return dict(inspected["Config"].get("Labels") or {})

    async def _pull(self, image: str, progress: Progress) -> None:
        log.info("pulling image %s", image)
        loop, pull = asyncio.get_running_loop(), _Pull()

        def each(message: dict[str, Any]) -> None:
            percent = pull.heard(message)
            loop.call_soon_threadsafe(progress, percent)

        repository, tag = parse_repository_tag(image)
        try:
            await self._engine.stream(lambda client: _pulling(client, repository, tag or "latest"), each)
        except APIError as error:
            raise _refused(image, str(error.explanation)) from error
        if pull.error:
            raise _refused(image, pull.error)
        self._use(image)

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


@dataclass(slots=True)
class _Pull:
    """What the Engine tells of a pull, layer by layer."""

    error: str = ""
    total: dict[str, int] = field(default_factory=dict)
    arrived: dict[str, int] = field(default_factory=dict)

    def heard(self, message: Mapping[str, Any]) -> int:
        """The percent that has arrived of the layers whose size is known, at most 99 before the end."""
        self.error = message.get("error") or self.error
        layer, detail = message.get("id", ""), message.get("progressDetail") or {}
        if message.get("status") == "Downloading" and detail.get("total"):
            self.total[layer], self.arrived[layer] = detail["total"], detail["current"]
        if message.get("status") in {"Download complete", "Pull complete"} and layer in self.total:
            self.arrived[layer] = self.total[layer]
        total = sum(self.total.values())
        return min(99, sum(self.arrived.values()) * 100 // total) if total else 0


def _pulling(client: APIClient, repository: str, tag: str) -> Any:
    return client.pull(repository, tag=tag, stream=True, decode=True)


# What registries and the Engine say, the more telling first, and what it means.
_REFUSALS = (
    (("toomanyrequests", "rate limit"), "the registry limits how often this address may pull; wait, or sign in to it"),
    (
        ("unauthorized", "denied", "no basic auth", "authentication required"),
        "the registry does not let this node pull it, or has no such image; sign the node in with `docker login`, "
        "or check the name",
    ),
    (("not found", "manifest unknown", "unknown"), "the registry has no image of that name and tag; check both"),
    (("no space left",), "the node's disk is full; free space where Docker keeps its images"),
    (("no matching manifest",), "the image exists, but not for this node's processor"),
    (
        ("connection refused", "no such host", "timeout", "no route", "unreachable", "dial tcp", "i/o timeout", "eof"),
        "the registry cannot be reached from this node; check its name and the network, or load the image on the node "
        "with `docker load`",
    ),
    (("certificate", "http response to https"), "the registry's TLS certificate is not trusted by this node's Docker"),
)


def _refused(image: str, words: str) -> ImagePullError:
    lowered = words.lower()
    meaning = next(
        (meaning for signs, meaning in _REFUSALS if any(sign in lowered for sign in signs)),
        "pull it by hand to see why",
    )
    return ImagePullError(f"image {image} cannot be pulled: {meaning} (Docker said: {words.strip()})", image=image)
