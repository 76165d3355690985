"""The routing table: what the gateway renders."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from inference_router.routing.model import ModelRoute, Replica, compile_routes
from inference_router.routing.policy import PolicyRoute, compile_policies


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Every route. The version grows with every change."""

    version: int
    routes: tuple[ModelRoute, ...]
    policies: tuple[PolicyRoute, ...] = ()


@dataclass(slots=True)
class Compiler:
    """Makes tables of what the controller tells. A route that cannot be served stays as it last could be."""

    flaws: dict[str, str] = field(default_factory=dict)
    _sound: dict[str, PolicyRoute] = field(default_factory=dict)

    def compile(self, version: int, replicas: Iterable[Replica], wanted: Sequence[PolicyRoute]) -> RoutingTable:
        """The table of that version. `flaws` says afterwards why routes, by id, were not taken as they are wanted."""
        self.flaws = {route.route_id: flaw for route in wanted if (flaw := route.flaw())}
        taken = [route if not route.flaw() else self._sound.get(route.route_id) for route in wanted]
        self._sound = {route.route_id: route for route in taken if route is not None}
        models = compile_routes(replicas)
        return RoutingTable(version, models, compile_policies(self._sound.values(), models))
