"""The routing table: what the gateway renders."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from inference_router.routing.model import ModelRoute, Replica, SleepyModel, by_name, let_sleep, route_of
from inference_router.routing.policy import PolicyRoute, compiled
from inference_router.routing.quotas import QuotaRule, compile_quotas

Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Every route. The version grows with every change."""

    version: int
    routes: tuple[ModelRoute, ...]
    policies: tuple[PolicyRoute, ...] = ()
    quotas: tuple[QuotaRule, ...] = ()

    @property
    def content(self) -> tuple[object, ...]:
        """Everything but the version."""
        return self.routes, self.policies, self.quotas


@dataclass(slots=True)
class Compiler:
    """Makes tables of what the controller tells. A route that cannot be served stays as it last could be.

    What comes of the same as the last time is the same object as the last time, so that a change costs little.
    """

    flaws: dict[str, str] = field(default_factory=dict)
    _sound: dict[str, PolicyRoute] = field(default_factory=dict)
    _checked: dict[str, tuple[PolicyRoute, str]] = field(default_factory=dict)
    _models: dict[Name, tuple[tuple[Replica, ...], ModelRoute]] = field(default_factory=dict)
    _quotas: tuple[Sequence[QuotaRule], tuple[QuotaRule, ...]] = ((), ())
    _policies: dict[str, tuple[PolicyRoute, Sequence[ModelRoute | None], PolicyRoute]] = field(default_factory=dict)

    def compile(
        self,
        version: int,
        replicas: Iterable[Replica],
        wanted: Sequence[PolicyRoute],
        sleepy: Iterable[SleepyModel] = (),
        before: RoutingTable | None = None,
        quotas: Sequence[QuotaRule] = (),
    ) -> RoutingTable:
        """The table of that version. `flaws` says afterwards why routes, by id, were not taken as they are wanted."""
        self._check(wanted)
        taken = [self._sound.get(route.route_id) if route.route_id in self.flaws else route for route in wanted]
        self._sound = {route.route_id: route for route in taken if route is not None}
        self._models = {name: self._model(name, members) for name, members in by_name(replicas).items()}
        known = {(route.org_id, route.model): route for route in before.routes} if before is not None else {}
        models = let_sleep({name: model for name, (_, model) in self._models.items()}, sleepy, known)
        ordered = sorted(self._sound.values(), key=lambda route: route.route_id)
        self._policies = {route.route_id: self._policy(route, models) for route in ordered}
        policies = tuple(policy for _, _, policy in self._policies.values())
        if quotas is not self._quotas[0]:
            self._quotas = (quotas, compile_quotas(quotas))
        return RoutingTable(version, tuple(models.values()), policies, self._quotas[1])

    def _check(self, wanted: Sequence[PolicyRoute]) -> None:
        known = self._checked
        self._checked = {}
        for route in wanted:
            before = known.get(route.route_id)
            self._checked[route.route_id] = before if before and before[0] is route else (route, route.flaw())
        self.flaws = {route_id: flaw for route_id, (_, flaw) in self._checked.items() if flaw}

    def _model(self, name: Name, members: tuple[Replica, ...]) -> tuple[tuple[Replica, ...], ModelRoute]:
        known = self._models.get(name)
        return known if known and known[0] == members else (members, route_of(members))

    def _policy(
        self, route: PolicyRoute, models: Mapping[Name, ModelRoute]
    ) -> tuple[PolicyRoute, Sequence[ModelRoute | None], PolicyRoute]:
        needed = [models.get((route.org_id, target.model)) for target in route.targets]
        known = self._policies.get(route.route_id)
        return known if known and known[:2] == (route, needed) else (route, needed, compiled(route, needed))
