"""What the controller told so far: everything once, then what is different."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from aiops.deployments.v1 import deployment_service_pb2 as pb

from inference_router.routing.convert import replica_from_proto, sleepy_from_proto
from inference_router.routing.model import Replica, SleepyModel
from inference_router.routing.policy import PolicyRoute
from inference_router.routing.policy_convert import policy_from_route
from inference_router.routing.quota_convert import rule_from_quota
from inference_router.routing.quotas import QuotaRule


@dataclass(slots=True)
class Told:
    """Instances by deployment, routes by id, and quotas. What does not change stays the same object."""

    quotas: tuple[QuotaRule, ...] = ()
    _replicas: dict[str, list[Replica]] = field(default_factory=dict)
    _routes: dict[str, PolicyRoute] = field(default_factory=dict)
    sleepy: list[SleepyModel] = field(default_factory=list)

    def take(self, message: pb.WatchReplicasResponse) -> None:
        """Takes in everything, or what is different."""
        if not message.partial:
            self._replicas.clear()
            self._routes.clear()
        if message.HasField("quotas") or not message.partial:
            self.quotas = tuple(map(rule_from_quota, message.quotas.quotas))
        changed = defaultdict[str, list[Replica]](list)
        for replica in message.replicas:
            changed[replica.deployment_id].append(replica_from_proto(replica))
        self._replicas |= changed
        self._routes |= {route.route_id: policy_from_route(route) for route in message.routes}
        self.sleepy = [sleepy_from_proto(each) for each in message.sleepy]
        _drop(self._replicas, message.gone_deployment_ids)
        _drop(self._routes, message.gone_route_ids)

    @property
    def replicas(self) -> list[Replica]:
        """Every instance that may receive traffic."""
        return [each for replicas in self._replicas.values() for each in replicas]

    @property
    def routes(self) -> list[PolicyRoute]:
        """Every route, as it is wanted."""
        return list(self._routes.values())


def _drop(known: dict[str, object] | dict[str, list[Replica]] | dict[str, PolicyRoute], gone: Iterable[str]) -> None:
    for name in gone:
        known.pop(name, None)
