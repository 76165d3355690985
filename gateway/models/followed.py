"""The routing table as it was told: everything once, then what is different."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from aiops.routing.v1 import routing_service_pb2 as pb

from gateway.models.table import ModelRoute, from_proto
from gateway.policies.table import PolicyRoute, policies_from_proto


@dataclass(slots=True)
class Followed:
    """Models by organisation and name, and policies by id. What does not change stays the same object."""

    # Where requests for models that sleep wait.
    room: tuple[str, int] | None = None
    _models: dict[str, ModelRoute] = field(default_factory=dict)
    _policies: dict[str, PolicyRoute] = field(default_factory=dict)

    def take(self, message: pb.WatchRoutingTableResponse) -> None:
        """Takes in a whole table, or what is different from the one before."""
        if not message.partial:
            self._models.clear()
            self._policies.clear()
        # One without anywhere to go is none.
        for route in (*message.table.routes, *message.gone_routes):
            self._models.pop(f"{route.org_id}/{route.model}", None)
        for policy_id in (*(policy.route_id for policy in message.table.policies), *message.gone_policy_ids):
            self._policies.pop(policy_id, None)
        self._models |= {model.key: model for model in from_proto(message.table, self.room)}
        self._policies |= {policy.route_id: policy for policy in policies_from_proto(message.table, self.room)}

    @property
    def models(self) -> Sequence[ModelRoute]:
        """Every model that can be reached, in a stable order."""
        return [self._models[key] for key in sorted(self._models)]

    @property
    def policies(self) -> Sequence[PolicyRoute]:
        """Every policy, in a stable order."""
        return [self._policies[route_id] for route_id in sorted(self._policies)]
