"""Which model a task is for: the caller's preference, the rules for the task, the default, and the fallback at last."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from controller.routing.model import Capability, Provider, Route
from mesh.errors import DomainError, FieldViolation, InvalidRequestError, Kind
from mesh.identity import OrgId, UserId

MEDIUM = "medium"
NOBODY = UserId("")


class NoRouteError(DomainError):
    """No model can take the task now."""

    kind, reason = Kind.PRECONDITION, "NO_ROUTE"

    def __init__(self, considered: Iterable["Considered"]) -> None:
        said = "; ".join(f"{each.model} ({each.rule}): {each.reason}" for each in considered)
        super().__init__(f"no model can take the task now: {said or 'there is no rule, and no default_model'}")


class RoutingRulesChangedError(DomainError):
    """Somebody else changed the rules since the caller read them."""

    kind, reason = Kind.ABORTED, "ROUTING_RULES_CHANGED"

    def __init__(self, version: int) -> None:
        super().__init__(
            f"the rules are at version {version} by now; read them again and repeat the change", version=str(version)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """The model for a type of task; without a complexity, for every one that no other rule names."""

    task_type: str
    model: str
    complexity: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """An organisation's rules. Version 0 are those that nobody has set yet."""

    org_id: OrgId
    user_id: UserId = NOBODY
    changed_at: datetime | None = None
    rules: tuple[Rule, ...] = ()
    default_model: str = ""
    fallback_model: str = ""
    version: int = 0

    def replace(self, wanted: "Rules", now: datetime) -> "Rules":
        """The next version. InvalidRequestError when two rules are for the same tasks."""
        known = set[tuple[str, str]]()
        for number, rule in enumerate(wanted.rules):
            if (rule.task_type, rule.complexity) in known:
                text = f"another rule is for {rule.task_type} {rule.complexity}".rstrip()
                raise InvalidRequestError(FieldViolation(f"rules[{number}]", text))
            known.add((rule.task_type, rule.complexity))
        return replace(wanted, version=self.version + 1, changed_at=now)


@dataclass(frozen=True, slots=True)
class RulesChanged:
    """An organisation's rules were replaced."""

    rules: Rules
    at: datetime


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked: how hard what sort of task is, which model the caller would like, and how much it must hold."""

    task_type: str = ""
    complexity: str = MEDIUM
    preferred_model: str = ""
    max_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Considered:
    """A model that was looked at, and why it was passed over; without a reason it was chosen."""

    model: str
    rule: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RoutedTarget:
    """A target of the chosen model, and why it gets nothing now."""

    name: str
    provider: Provider
    model: str
    share_percent: float
    fallback: int
    instances: int
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The model, the rule that chose it, and all that was looked at on the way."""

    model: str
    rule: str
    route: Route | None
    targets: tuple[RoutedTarget, ...]
    considered: tuple[Considered, ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What an organisation's names lead to: its routes before everybody's, and live instances by owner and model."""

    org_id: OrgId
    routes: Mapping[str, Route]
    # Of each organisation's models, the deployments that may receive traffic.
    live: Mapping[tuple[str, str], Sequence[str]]

    def targets(self, name: str) -> tuple[RoutedTarget, ...]:
        """Where requests for the name go; nothing when there is no such name."""
        route = self.routes.get(name)
        if route is not None:
            return _routed(route, self.live)
        instances = len(self.live.get((self.org_id, name), ()))
        return (RoutedTarget(name, Provider.INTERNAL, name, 100.0, 0, instances),) if instances else ()


def decide(task: Task, rules: Rules, catalogue: Catalogue) -> Decision:
    """The first model in the order of priorities that can take the task. NoRouteError says of each why it cannot."""
    passed: list[Considered] = []
    for model, rule in _candidates(task, rules):
        targets = catalogue.targets(model)
        reason = _hindrance(task, model, catalogue, targets)
        passed.append(Considered(model, rule, reason))
        if not reason:
            return Decision(model, rule, catalogue.routes.get(model), targets, tuple(passed))
    raise NoRouteError(passed)


def _candidates(task: Task, rules: Rules) -> Iterator[tuple[str, str]]:
    if task.preferred_model:
        yield task.preferred_model, "preferred_model"
    for complexity in (task.complexity, ""):
        for rule in rules.rules:
            if (rule.task_type, rule.complexity) == (task.task_type, complexity):
                yield rule.model, "task_type"
    if rules.default_model:
        yield rules.default_model, "default_model"
    if rules.fallback_model:
        yield rules.fallback_model, "fallback_model"


def _hindrance(task: Task, model: str, catalogue: Catalogue, targets: Sequence[RoutedTarget]) -> str:
    route = catalogue.routes.get(model)
    if not targets:
        return "there is no route of that name, and no model of that name is running"
    if all(target.skipped for target in targets):
        return "; ".join(f"target {target.name}: {target.skipped}" for target in targets)
    if route is None:
        return ""
    known = {each.value for each in Capability}
    able = {each.value for each in route.wish.capabilities}
    if able and task.task_type in known and task.task_type not in able:
        return f"it is for {', '.join(sorted(able))}"
    if route.wish.max_tokens and task.max_tokens > route.wish.max_tokens:
        return f"it takes {route.wish.max_tokens} tokens"
    return ""


def _routed(route: Route, live: Mapping[tuple[str, str], Sequence[str]]) -> tuple[RoutedTarget, ...]:
    """The targets, with the shares that Envoy gives them: those that nobody answers for count as nothing."""
    wish = route.wish
    counted = {
        target.name: sum(target.deployment_id in ("", each) for each in live.get((route.org_id, target.model), ()))
        for target in wish.targets
        if target.provider is Provider.INTERNAL
    }
    there = {target.name for target in wish.targets if counted.get(target.name, 1)}
    weights = {target.name: target.weight for target in wish.targets if target.name in there}
    if not any(weights.values()) and (instead := [name for name in wish.fallbacks if name in there]):
        weights[instead[0]] = 1
    total = sum(weights.values()) or 1
    turns = {name: turn for turn, name in enumerate((name for name in wish.fallbacks if name in there), 1)}
    return tuple(
        RoutedTarget(
            name=target.name,
            provider=target.provider,
            model=target.model,
            share_percent=round(100 * weights.get(target.name, 0) / total, 2),
            fallback=turns.get(target.name, 0),
            instances=counted.get(target.name, 0),
            skipped=_skipped(target.name, there, weights, turns),
        )
        for target in wish.targets
    )


def _skipped(name: str, there: set[str], weights: Mapping[str, int], turns: Mapping[str, int]) -> str:
    if name not in there:
        return "no instance of the model runs"
    return "" if weights.get(name) or name in turns else "it has no weight and is no fallback"
