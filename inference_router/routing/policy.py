"""Routes by policy: names that lead to targets by share, and what follows when a target fails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from inference_router.routing.model import ModelRoute, RefusedField, Sleep, Target, shared_refusals


@dataclass(frozen=True, slots=True)
class Resilience:
    """How long is waited, how often is tried, and when a target is left alone; milliseconds, 0 waits without end."""

    first_byte_timeout_ms: int = 0
    idle_timeout_ms: int = 0
    max_attempts: int = 3
    base_delay_ms: int = 10
    max_delay_ms: int = 100
    retry_budget_percent: int = 20
    retry_statuses: tuple[int, ...] = (429, 502, 503, 504)
    failure_threshold: int = 5
    recovery_timeout_ms: int = 30_000
    max_requests: int = 4096


def resilience_of(asked: Mapping[str, Any]) -> Resilience:
    """What is asked, and the default wherever that is nothing."""
    known = {each.name for each in fields(Resilience)}
    return Resilience(**{name: value for name, value in asked.items() if name in known and value})


@dataclass(frozen=True, slots=True)
class Balancing:
    """Which of a target's instances answers; `affinity` is `session`, `prefix` or nothing."""

    affinity: str = ""
    prefix_bytes: int = 1024
    overload_percent: int = 150
    by_load: bool = False


@dataclass(frozen=True, slots=True)
class External:
    """A provider outside the platform."""

    base_url: str
    credential_id: str = ""
    ca_pem: str = ""
    # Empty is `authorization`, as a bearer's.
    credential_header: str = ""
    # Speaks Anthropic's Messages.
    messages: bool = False
    # Takes `stream_options.include_usage`.
    stream_usage: bool = False


@dataclass(frozen=True, slots=True)
class Prices:
    """What one token costs: decimal numbers; empty means nothing."""

    input_token: str = ""
    output_token: str = ""
    cached_token: str = ""


@dataclass(frozen=True, slots=True)
class PolicyTarget:
    """Where a share of the requests goes: to instances of a model of the platform, or outside."""

    name: str
    weight: int
    model: str
    deployment_id: str = ""
    instances: tuple[Target, ...] = ()
    external: External | None = None
    sleep: Sleep | None = None
    # Percent of the requests that it is sent a copy of.
    mirror_percent: int = 0
    replica_set_id: str = ""

    @property
    def answers(self) -> bool:
        """Whether there is anybody to send a request to, or to wake."""
        return bool(self.instances) or self.external is not None or self.sleep is not None


@dataclass(frozen=True, slots=True)
class PolicyRoute:
    """Some names of an organisation, or of every one. As the controller tells it, no target has instances."""

    route_id: str
    org_id: str
    universe: bool
    names: tuple[str, ...]
    targets: tuple[PolicyTarget, ...]
    fallbacks: tuple[str, ...]
    created: float
    resilience: Resilience = field(default_factory=Resilience)
    refused_fields: tuple[RefusedField, ...] = ()
    prices: Prices = field(default_factory=Prices)
    balancing: Balancing = field(default_factory=Balancing)
    # What is answered when no target can; empty is an error.
    degraded_answer: str = ""

    def flaw(self) -> str:
        """Why it cannot be served, beginning with the field at fault; empty when it can."""
        known = [target.name for target in self.targets]
        unknown = [name for name in self.fallbacks if name not in known]
        twice = {name for name in known if known.count(name) > 1}
        checks = {
            "route_id is missing": not self.route_id,
            "org_id is missing": not self.org_id,
            "names: there is none": not self.names or not all(self.names),
            "targets: none has a weight": not any(target.weight for target in self.targets),
            f"targets: {sorted(twice)} are named twice": bool(twice),
            f"fallbacks: {unknown} are no targets": bool(unknown),
            "targets.model is missing": not all(target.model and target.name for target in self.targets),
        }
        return next((text for text, wrong in checks.items() if wrong), "")


def compiled(route: PolicyRoute, models: Sequence[ModelRoute | None]) -> PolicyRoute:
    """The route with the live instances of its targets, whose models are given in their order.

    Targets that nobody answers for are left out. Where nothing that has a weight is left, the first fallback that is
    stands in for it.
    """
    found = [_peopled(target, model) for target, model in zip(route.targets, models, strict=True)]
    targets = {target.name: target for target in found if target.answers}
    fallbacks = tuple(name for name in route.fallbacks if name in targets)
    if fallbacks and not any(target.weight for target in targets.values()):
        targets[fallbacks[0]] = replace(targets[fallbacks[0]], weight=1)
    used = [target for target in targets.values() if target.weight or target.name in fallbacks or target.mirror_percent]
    known = {model.model: model for model in models if model is not None}
    # What a copy is sent to may ignore fields: nobody is answered by it.
    heard = [target for target in used if not target.mirror_percent]
    served = [known[target.model] for target in heard if target.instances or target.sleep]
    refused = shared_refusals([model.refused_fields for model in served])
    return replace(route, targets=tuple(used), fallbacks=fallbacks, refused_fields=refused)


def _peopled(target: PolicyTarget, model: ModelRoute | None) -> PolicyTarget:
    if target.external is not None or model is None:
        return target
    wanted = [
        each
        for each in model.targets
        if target.deployment_id in ("", each.deployment_id) and target.replica_set_id in ("", each.member_of)
    ]
    return replace(
        target, instances=tuple(wanted), deployment_id="", replica_set_id="", sleep=_sleep(target, model.sleep)
    )


def _sleep(target: PolicyTarget, sleep: Sleep | None) -> Sleep | None:
    """One deployment alone is never woken, a copy wakes nobody, and of a model's sets one sleeps."""
    if sleep is None or target.deployment_id or target.mirror_percent:
        return None
    return sleep if target.replica_set_id in ("", sleep.replica_set_id) else None
