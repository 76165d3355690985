"""A route: the names that clients call a model by, where their requests go, and what is done when a target fails."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import NewType
from urllib.parse import urlsplit

from controller.routing.balancing import Balancing
from mesh.errors import DomainError, FieldViolation, InvalidRequestError, Kind
from mesh.identity import OrgId, UserId

RouteId = NewType("RouteId", str)

# What fits a header as it is, and a path without escapes.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,254}")
TARGET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
RETRIED = (429, 502, 503, 504)


class Visibility(Enum):
    """Who may use a route."""

    ORGANIZATION = "organization"
    UNIVERSE = "universe"


class Provider(Enum):
    """Who answers: a model of the platform, or somebody outside."""

    INTERNAL = "internal"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OPENAI_COMPATIBLE = "openai_compatible"


class Capability(Enum):
    """What a model is good for."""

    CHAT = "chat"
    COMPLETION = "completion"
    SUMMARIZATION = "summarization"
    CODE_GENERATION = "code_generation"
    EMBEDDING = "embedding"


class Strategy(Enum):
    """What is done when a target fails."""

    RETRY_EXPONENTIAL = "retry_exponential"
    CIRCUIT_BREAKER = "circuit_breaker"
    FALLBACK_SERVICE = "fallback_service"
    GRACEFUL_DEGRADATION = "graceful_degradation"


BASE_URLS = {Provider.OPENAI: "https://api.openai.com/v1", Provider.ANTHROPIC: "https://api.anthropic.com/v1"}


class RouteNotFoundError(DomainError):
    """There is no such route, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "ROUTE_NOT_FOUND"

    def __init__(self, reference: str) -> None:
        super().__init__(f"there is no route {reference}", route_id=reference)


class RouteNameTakenError(DomainError):
    """Another route has one of the names."""

    kind, reason = Kind.EXISTS, "ROUTE_NAME_TAKEN"

    def __init__(self, names: Iterable[str]) -> None:
        taken = ", ".join(sorted(names))
        super().__init__(f"another route is called {taken}; change that one, or choose other names", names=taken)


class RouteChangedError(DomainError):
    """Somebody else changed the route since the caller read it."""

    kind, reason = Kind.ABORTED, "ROUTE_CHANGED"

    def __init__(self, route: "Route") -> None:
        super().__init__(
            f"{route.name} is at version {route.version} by now; read it again and repeat the change",
            route_id=route.route_id,
            version=str(route.version),
        )


class RouteInRolloutError(DomainError):
    """A rollout sets the weights of the route's targets."""

    kind, reason = Kind.PRECONDITION, "ROUTE_IN_ROLLOUT"

    def __init__(self, route: "Route") -> None:
        super().__init__(
            f"rollout {route.rollout_id} sets the weights of {route.name}; abort it, or wait until it has ended",
            route_id=route.route_id,
            rollout_id=route.rollout_id,
        )


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests may go. A weight of 0 makes it a mere fallback."""

    name: str
    model: str
    provider: Provider = Provider.INTERNAL
    deployment_id: str = ""
    base_url: str = ""
    credential_id: str = ""
    ca_pem: str = ""
    weight: int = 0
    credential_header: str = ""
    # Percent of the requests that it is sent a copy of.
    mirror_percent: int = 0
    replica_set_id: str = ""
    # Takes `stream_options.include_usage`, where its provider does not say so.
    stream_usage: bool = False


@dataclass(frozen=True, slots=True)
class Prices:
    """Decimal numbers for one token; empty means nothing."""

    input_token: str = ""
    output_token: str = ""
    cached_token: str = ""


@dataclass(frozen=True, slots=True)
class Resilience:
    """How long is waited, how often is tried, and when a target is left alone. 0 takes the default."""

    first_byte_timeout_ms: int = 0
    idle_timeout_ms: int = 0
    max_attempts: int = 0
    base_delay_ms: int = 0
    max_delay_ms: int = 0
    retry_budget_percent: int = 0
    retry_statuses: tuple[int, ...] = ()
    failure_threshold: int = 0
    recovery_timeout_ms: int = 0
    max_requests: int = 0


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a route."""

    name: str = ""
    aliases: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    fallbacks: tuple[str, ...] = ()
    capabilities: tuple[Capability, ...] = ()
    max_tokens: int = 0
    prices: Prices = field(default_factory=Prices)
    visibility: Visibility = Visibility.ORGANIZATION
    resilience: Resilience = field(default_factory=Resilience)
    balancing: Balancing = field(default_factory=Balancing)
    strategies: tuple[Strategy, ...] = ()
    degraded_answer: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that clients may call it by."""
        return (self.name, *self.aliases)

    def check(self) -> None:
        """Raises InvalidRequestError that names every field at fault."""
        found = [*self._wrong_names(), *self._wrong_targets(), *self._wrong_fallbacks(), *self._wrong_prices()]
        found += self._wrong_strategies()
        if found:
            raise InvalidRequestError(*found)

    def _wrong_names(self) -> Iterator[FieldViolation]:
        paths = {"route.name": self.name, **{f"route.aliases[{n}]": alias for n, alias in enumerate(self.aliases)}}
        known = set[str]()
        for path, name in paths.items():
            if not NAME.fullmatch(name):
                yield FieldViolation(path, f"{name!r} is no name: letters, digits and . _ : / @ + - are")
            if name in known:
                yield FieldViolation(path, f"{name} is named twice")
            known.add(name)

    def _wrong_targets(self) -> Iterator[FieldViolation]:
        if not self.targets:
            yield FieldViolation("route.targets", "there must be at least one")
        elif not any(target.weight for target in self.targets):
            yield FieldViolation("route.targets", "at least one must have a weight above 0")
        times = Counter(target.name for target in self.targets)
        for number, target in enumerate(self.targets):
            path = f"route.targets[{number}]"
            if not TARGET_NAME.fullmatch(target.name):
                text = f"{target.name!r} is no target's name: letters, digits and . _ - are, at most 63"
                yield FieldViolation(f"{path}.name", text)
            if times[target.name] > 1:
                yield FieldViolation(f"{path}.name", f"another target is called {target.name} too")
            if target.mirror_percent and (target.weight or target.name in self.fallbacks):
                text = "is for a target that answers nobody: one without a weight that is no fallback"
                yield FieldViolation(f"{path}.mirror_percent", text)
            for name, text in _wrong_address(target):
                yield FieldViolation(f"{path}.{name}", text)

    def _wrong_fallbacks(self) -> Iterator[FieldViolation]:
        known = {target.name for target in self.targets}
        for number, name in enumerate(self.fallbacks):
            if name not in known:
                yield FieldViolation(f"route.fallbacks[{number}]", f"{name!r} is the name of none of the targets")
            if name in self.fallbacks[:number]:
                yield FieldViolation(f"route.fallbacks[{number}]", f"{name} is named twice")

    def _wrong_strategies(self) -> Iterator[FieldViolation]:
        for number, strategy in enumerate(self.strategies):
            path = f"route.strategies[{number}]"
            if strategy is Strategy.FALLBACK_SERVICE and not self.fallbacks:
                yield FieldViolation(path, "needs a target to fall back to; name it in fallbacks")
            if strategy is Strategy.GRACEFUL_DEGRADATION and not (self.fallbacks or self.degraded_answer):
                yield FieldViolation(path, "needs a fallback, or a degraded_answer")

    def _wrong_prices(self) -> Iterator[FieldViolation]:
        for each in fields(self.prices):
            text = getattr(self.prices, each.name)
            if text and not _is_price(text):
                yield FieldViolation(f"route.prices.{each.name}", f"{text!r} is no decimal number of 0 or more")


@dataclass(frozen=True, slots=True)
class Route:
    """A model as clients see it."""

    route_id: RouteId
    org_id: OrgId
    user_id: UserId
    created_at: datetime
    changed_at: datetime
    wish: Wish
    version: int = 1
    deleted_at: datetime | None = None
    # The rollout that sets the targets' weights; empty when whoever changes the route does.
    rollout_id: str = ""

    @property
    def name(self) -> str:
        """What clients call it first."""
        return self.wish.name

    def change(self, wish: Wish, now: datetime) -> "Route":
        """Something else is wanted. InvalidRequestError, RouteInRolloutError where that is the rollout's to say."""
        wish.check()
        if self.rollout_id and _leads(wish) != _leads(self.wish):
            raise RouteInRolloutError(self)
        return self if wish == self.wish else replace(self, wish=wish, changed_at=now, version=self.version + 1)

    def lead(self, weights: Mapping[str, int], rollout_id: str, now: datetime) -> "Route":
        """A rollout gives these targets their weights, and all others none; empty when it is its last word."""
        led = tuple(replace(each, weight=weights.get(each.name, 0)) for each in self.wish.targets)
        wish = replace(self.wish, targets=led)
        if (wish, rollout_id) == (self.wish, self.rollout_id):
            return self
        return replace(self, wish=wish, rollout_id=rollout_id, changed_at=now, version=self.version + 1)

    def delete(self, now: datetime) -> "Route":
        """Nobody is led anywhere by it any more."""
        if self.deleted_at is not None:
            return self
        return replace(self, deleted_at=now, changed_at=now, version=self.version + 1)


@dataclass(frozen=True, slots=True)
class RouteChanged:
    """A route was made, changed or deleted."""

    route: Route
    at: datetime


def _leads(wish: Wish) -> Mapping[str, int]:
    """What a rollout decides about a route: which of its targets have which weight."""
    return {target.name: target.weight for target in wish.targets if target.weight}


def _wrong_address(target: Target) -> Iterator[tuple[str, str]]:
    external: Mapping[str, str | bool] = {
        "base_url": target.base_url,
        "credential_id": target.credential_id,
        "ca_pem": target.ca_pem,
        "credential_header": target.credential_header,
        "stream_usage": target.stream_usage,
    }
    if target.provider is Provider.INTERNAL:
        yield from ((name, "is for external providers") for name, value in external.items() if value)
        if target.deployment_id and target.replica_set_id:
            yield "replica_set_id", "goes without deployment_id: either one instance or those of a set"
        return
    if target.deployment_id:
        yield "deployment_id", "is for targets of the platform"
    if target.replica_set_id:
        yield "replica_set_id", "is for targets of the platform"
    if not target.base_url and target.provider not in BASE_URLS:
        yield "base_url", "is missing; it is what stands before /chat/completions"
    if target.base_url and not _is_base_url(target.base_url):
        yield "base_url", f"{target.base_url!r} is no http or https address without query and user"
    if target.ca_pem and "-----BEGIN CERTIFICATE-----" not in target.ca_pem:
        yield "ca_pem", "holds no certificate in PEM"


def _is_base_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    sound = bool(parts.hostname) and re.fullmatch(r"[!-~]*", text) is not None and port != 0
    return plain and sound and parts.scheme in ("http", "https")


def _is_price(text: str) -> bool:
    try:
        price = Decimal(text)
    except InvalidOperation:
        return False
    return price.is_finite() and price >= 0
