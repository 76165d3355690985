"""One pull of an image: how far it is, what a registry's refusal means, and whether trying again may help."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from docker import APIClient
from docker.errors import APIError
from docker.utils import parse_repository_tag

from mesh.errors import DomainError, Kind
from node_agent.runtime.docker.engine import DockerEngine

_MB = 1_000_000
_ARRIVED = {"Download complete", "Pull complete"}


class ImagePullError(DomainError):
    """The image is not here and cannot be brought."""

    kind, reason = Kind.UNAVAILABLE, "IMAGE_PULL_FAILED"


class PullCutError(ImagePullError):
    """The pull failed by what may pass: the network, or a registry that is away or busy."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """How much of an image has arrived, of those layers whose size is known; `trouble` is why a pull pauses."""

    bytes: int = 0
    bytes_total: int = 0
    layers: int = 0
    layers_total: int = 0
    trouble: str = ""

    @property
    def percent(self) -> int:
        """At most 99 before the end."""
        return min(99, self.bytes * 100 // self.bytes_total) if self.bytes_total else 0

    def __str__(self) -> str:
        """For people."""
        if self.trouble:
            return self.trouble
        size = f"{self.bytes / _MB:,.1f} of {self.bytes_total / _MB:,.1f} MB"
        return f"image: {size}, {self.layers} of {self.layers_total} layers"


Progress = Callable[[Arrival], None]


@dataclass(slots=True)
class Account:
    """What the Engine tells of a pull, layer by layer."""

    error: str = ""
    complete: set[str] = field(default_factory=set)
    total: dict[str, int] = field(default_factory=dict)
    arrived: dict[str, int] = field(default_factory=dict)

    def hear(self, message: Mapping[str, Any]) -> Arrival:
        """Takes a message of `POST /images/create`; answers how far the pull is."""
        self.error = message.get("error") or self.error
        layer, status, detail = message.get("id", ""), message.get("status", ""), message.get("progressDetail") or {}
        if status in {"Pulling fs layer", "Already exists"}:
            self.total.setdefault(layer, 0)
        if status == "Downloading" and detail.get("total"):
            self.total[layer], self.arrived[layer] = detail["total"], detail["current"]
        if status in _ARRIVED and layer in self.total:
            self.arrived[layer] = self.total[layer]
        if status in {"Pull complete", "Already exists"}:
            self.complete.add(layer)
        return Arrival(sum(self.arrived.values()), sum(self.total.values()), len(self.complete), len(self.total))


async def pull(engine: DockerEngine, image: str, tell: Progress) -> None:
    """Has the Engine bring the image, which checks every layer and a digest in its name; `tell` is called in a thread.

    The Engine itself asks again for a layer whose connection is cut, from where it was. Raises PullCutError where
    trying again may help, ImagePullError where it does not, EngineAwayError.
    """
    account = Account()
    repository, tag = parse_repository_tag(image)
    try:
        await engine.stream(
            lambda client: _pulling(client, repository, tag or "latest"), lambda message: tell(account.hear(message))
        )
    except APIError as error:
        raise refused(image, str(error.explanation)) from error
    if account.error:
        raise refused(image, account.error)


def _pulling(client: APIClient, repository: str, tag: str) -> Any:
    return client.pull(repository, tag=tag, stream=True, decode=True)


# What registries and the Engine say, the more telling first; what it means; and whether that passes.
_REFUSALS = (
    (
        ("toomanyrequests", "rate limit"),
        "the registry limits how often this address may pull; wait, or sign in to it",
        True,
    ),
    (
        ("unauthorized", "denied", "no basic auth", "authentication required"),
        "the registry does not let this node pull it, or has no such image; sign the node in with `docker login`, "
        "or check the name",
        False,
    ),
    (("no space left",), "the node's disk is full; free space where Docker keeps its images", False),
    (("no matching manifest",), "the image exists, but not for this node's processor", False),
    (
        ("certificate", "http response to https"),
        "the registry's TLS certificate is not trusted by this node's Docker",
        False,
    ),
    (
        (
            *("connection refused", "no such host", "timeout", "no route", "unreachable", "dial tcp", "i/o timeout"),
            *("eof", "connection reset", "broken pipe", "temporary failure"),
        ),
        "the registry cannot be reached from this node; check its name and the network, or load the image on the node "
        "with `docker load`",
        True,
    ),
    (
        ("received unexpected http status: 5", "internal server error", "bad gateway", "service unavailable"),
        "the registry has trouble of its own",
        True,
    ),
    (("not found", "manifest unknown", "unknown"), "the registry has no image of that name and tag; check both", False),
)


def refused(image: str, words: str) -> ImagePullError:
    """The error that the Engine's words mean."""
    lowered = words.lower()
    meaning, passes = next(
        ((meaning, passes) for signs, meaning, passes in _REFUSALS if any(sign in lowered for sign in signs)),
        ("pull it by hand to see why", False),
    )
    kind = PullCutError if passes else ImagePullError
    return kind(f"image {image} cannot be pulled: {meaning} (Docker said: {words.strip()})", image=image)
