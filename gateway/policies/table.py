"""Routes by policy as the gateway keeps them."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from aiops.routing.v1 import route_pb2
from aiops.routing.v1 import routing_service_pb2 as pb

from gateway.models.table import (
    NAME,
    Balancing,
    ModelRoute,
    RefusedField,
    knows_stream_options,
    refused_from,
    sleep_from,
    targets_from,
)

# The share of an instance whose engine does not say how busy it is.
FREE = 10
log = logging.getLogger(__name__)
AUTHORIZATION = "authorization"
# What a fixed answer is called by, beside targets; no target can be called so.
FIXED = "~answer"


@dataclass(frozen=True, slots=True)
class External:
    """A provider outside: where it is, and what shows who asks."""

    host: str
    port: int
    tls: bool
    # What stands before /chat/completions, without a slash at its end.
    path: str
    credential_id: str = ""
    ca_pem: str = ""
    # Where the credential goes; in "authorization" it is a bearer's.
    credential_header: str = AUTHORIZATION
    # Speaks Anthropic's Messages.
    messages: bool = False
    # Takes `stream_options.include_usage`.
    stream_usage: bool = False


@dataclass(frozen=True, slots=True)
class PolicyTarget:
    """Where a share of the requests goes; either `serving` instances of the platform, or outside."""

    name: str
    weight: int
    # The name that the target knows the model by.
    model: str
    serving: ModelRoute | None = None
    external: External | None = None
    # What is answered, where that is always the same.
    fixed: str = ""
    # Percent of the requests that it is sent a copy of.
    mirror_percent: int = 0

    @property
    def tells_usage(self) -> bool:
        """Whether its streams tell what they used when they are asked to in OpenAI's words."""
        if self.external is not None:
            # Asked in Anthropic's words it tells it in any case.
            return self.external.messages or self.external.stream_usage
        return self.serving is None or self.serving.tells_usage


@dataclass(frozen=True, slots=True)
class Resilience:
    """As the contract has it, with everything set; milliseconds, 0 waits without end."""

    first_byte_timeout_ms: int = 0
    idle_timeout_ms: int = 0
    max_attempts: int = 3
    base_delay_ms: int = 10
    max_delay_ms: int = 100
    retry_budget_percent: int = 20
    retry_statuses: tuple[int, ...] = ()
    failure_threshold: int = 5
    recovery_timeout_ms: int = 30_000
    max_requests: int = 4096


@dataclass(frozen=True, slots=True)
class PolicyRoute:
    """Names of an organisation, or of every one, that lead to targets by share and then to fallbacks in turn."""

    route_id: str
    org_id: str
    universe: bool
    names: tuple[str, ...]
    targets: tuple[PolicyTarget, ...]
    fallbacks: tuple[str, ...] = ()
    resilience: Resilience = field(default_factory=Resilience)
    # Of input, output and cached tokens.
    prices: tuple[str, str, str] = ("", "", "")
    refused: tuple[RefusedField, ...] = ()
    created: int = 0
    balancing: Balancing | None = None

    @property
    def firsts(self) -> tuple[PolicyTarget, ...]:
        """Those that get first attempts."""
        return tuple(target for target in self.targets if target.weight)

    @property
    def tells_usage(self) -> bool:
        """Whether streams are asked for counts: the platform's own targets all know how; others are spared later."""
        own = all(target.tells_usage for target in self.targets if target.external is None)
        return own and any(target.tells_usage for target in self.targets) and knows_stream_options(self.refused)

    @property
    def sleepy(self) -> bool:
        """Whether a target may be asleep."""
        return any(target.serving is not None and target.serving.sleep is not None for target in self.targets)

    @property
    def mirrors(self) -> tuple[PolicyTarget, ...]:
        """Those that get copies of requests and answer nobody."""
        return tuple(target for target in self.targets if target.mirror_percent)

    def chain(self, first: PolicyTarget) -> tuple[PolicyTarget, ...]:
        """Whom a request is tried with, in turn."""
        known = {target.name: target for target in self.targets}
        rest = (known[name] for name in self.fallbacks if name in known)
        return (first, *(target for target in rest if target is not first))


def policies_from_proto(table: pb.RoutingTable, room: tuple[str, int] | None = None) -> tuple[PolicyRoute, ...]:
    """The policies of a table in a stable order. What Envoy would refuse is left out and logged."""
    routes = (_policy(message, room) for message in table.policies)
    return tuple(sorted((route for route in routes if route.names), key=lambda route: route.route_id))


def _policy(message: pb.PolicyRoute, room: tuple[str, int] | None) -> PolicyRoute:
    asked, targets = message.resilience, tuple(_targets(message, room))
    fixed = tuple(_fixed(message, targets))
    return PolicyRoute(
        route_id=message.route_id,
        org_id=message.org_id,
        universe=message.universe,
        names=tuple(_names(message)),
        targets=(*targets, *fixed),
        fallbacks=(*message.fallbacks, *(target.name for target in fixed)),
        resilience=_resilience(asked),
        prices=(message.prices.input_token, message.prices.output_token, message.prices.cached_token),
        refused=refused_from(message.refused_fields),
        created=int(message.created),
        balancing=_balancing(message.balancing),
    )


def _resilience(asked: route_pb2.Resilience) -> Resilience:
    return Resilience(
        first_byte_timeout_ms=asked.first_byte_timeout_ms,
        idle_timeout_ms=asked.idle_timeout_ms,
        max_attempts=max(asked.max_attempts, 1),
        base_delay_ms=max(asked.base_delay_ms, 1),
        max_delay_ms=max(asked.max_delay_ms, asked.base_delay_ms, 1),
        retry_budget_percent=asked.retry_budget_percent,
        retry_statuses=tuple(asked.retry_statuses),
        failure_threshold=max(asked.failure_threshold, 1),
        recovery_timeout_ms=max(asked.recovery_timeout_ms, 1),
        max_requests=max(asked.max_requests, 1),
    )


def _balancing(asked: route_pb2.Balancing) -> Balancing | None:
    if asked.affinity not in (route_pb2.Balancing.session, route_pb2.Balancing.prefix):
        return None
    affinity = route_pb2.Balancing.Affinity.Name(asked.affinity)
    return Balancing(affinity, asked.prefix_bytes, max(asked.overload_percent, 100))


def _names(message: pb.PolicyRoute) -> Iterable[str]:
    sound = NAME.fullmatch(message.route_id) and NAME.fullmatch(message.org_id)
    for name in message.names:
        if sound and NAME.fullmatch(name):
            yield name
        else:
            log.error("route %r is not served as %r: it is no name", message.route_id, name)


def _targets(message: pb.PolicyRoute, room: tuple[str, int] | None) -> Iterable[PolicyTarget]:
    for target in message.targets:
        outside = _external(target) if target.HasField("external") else None
        instances = targets_from(target.instances)
        if message.balancing.by_load:
            instances = tuple(replace(each, weight=each.load_weight or FREE) for each in instances)
        sleep = sleep_from(target.sleep, room)
        if not NAME.fullmatch(target.name) or not (outside or instances or sleep):
            log.error("target %r of route %s is left out: no request can be sent to it", target.name, message.route_id)
            continue
        cluster = f"target/{message.route_id}/{target.name}"
        serving = None
        if instances or sleep:
            balancing = _balancing(message.balancing)
            serving = ModelRoute(
                message.org_id, target.model, instances, (), 0, named=cluster, sleep=sleep, balancing=balancing
            )
        mirror_percent = min(target.mirror_percent, 100)
        weight = 0 if mirror_percent else target.weight
        yield PolicyTarget(target.name, weight, target.model, serving, outside, mirror_percent=mirror_percent)


def _fixed(message: pb.PolicyRoute, targets: Iterable[PolicyTarget]) -> Iterable[PolicyTarget]:
    """What is answered after every target failed, or at once when there is none."""
    if message.degraded_answer and message.names:
        weight = 0 if any(target.weight for target in targets) else 1
        yield PolicyTarget(FIXED, weight, message.names[0], fixed=message.degraded_answer)


def _external(target: pb.PolicyTarget) -> External | None:
    try:
        parts = urlsplit(target.external.base_url)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.scheme not in ("http", "https"):
        return None
    tls = parts.scheme == "https"
    path = parts.path.rstrip("/")
    return External(
        parts.hostname,
        port or (443 if tls else 80),
        tls,
        path,
        target.external.credential_id,
        target.external.ca_pem,
        target.external.credential_header or AUTHORIZATION,
        target.external.protocol == pb.External.messages,
        target.external.stream_usage,
    )
