"""Replicas from protobuf messages; the routing table to them and back."""

from aiops.deployments.v1 import deployment_service_pb2 as deployments_pb
from aiops.routing.v1 import routing_service_pb2 as pb

from inference_router.routing.model import ModelRoute, RefusedField, Replica, Sleep, SleepyModel
from inference_router.routing.policy import PolicyRoute
from inference_router.routing.policy_convert import policy_from_proto, policy_to_proto
from inference_router.routing.quota_convert import rule_from_proto, rules_to_proto
from inference_router.routing.quotas import QuotaRule
from inference_router.routing.table import Name, RoutingTable
from inference_router.routing.target_convert import (
    refused_from_proto,
    refused_to_proto,
    sleep_from_proto,
    sleep_to_proto,
    target_from_proto,
    target_to_proto,
)


def replica_from_proto(message: deployments_pb.Replica) -> Replica:
    """An instance as the controller tells it."""
    return Replica(
        deployment_id=message.deployment_id,
        instance_id=message.instance_id,
        org_id=message.org_id,
        model_name=message.model_name,
        node_id=message.node_id,
        address=message.address,
        port=message.port,
        epoch=message.epoch,
        inference_path=message.inference_path,
        unsupported_fields=tuple(
            RefusedField(field.path, tuple(field.harmless_values)) for field in message.unsupported_fields
        ),
        created=message.created,
        private_paths=tuple(message.private_paths),
        tunnel=message.tunnel,
        grpc_port=message.grpc_port,
        replica_set_id=message.replica_set_id,
        load_weight=message.load_weight,
        member_of=message.member_of,
        single_use_connections=message.single_use_connections,
    )


def sleepy_from_proto(message: deployments_pb.SleepyModel) -> SleepyModel:
    """A model that may sleep, as the controller tells it."""
    sleep = Sleep(message.replica_set_id, message.hold_seconds, message.standing)
    return SleepyModel(message.org_id, message.model_name, message.created, sleep)


class TableMessages:
    """Tables as messages. What is the same object as the last time is not built again."""

    def __init__(self) -> None:
        self._routes: dict[Name, tuple[ModelRoute, pb.ModelRoute]] = {}
        self._policies: dict[str, tuple[PolicyRoute, pb.PolicyRoute]] = {}
        self._quotas: tuple[QuotaRule, ...] = ()

    def whole(self, table: RoutingTable) -> pb.RoutingTable:
        """The whole table."""
        self._build(table)
        return pb.RoutingTable(
            version=table.version,
            routes=[message for _, message in self._routes.values()],
            policies=[message for _, message in self._policies.values()],
            quotas=rules_to_proto(table.quotas),
        )

    def change(self, table: RoutingTable) -> pb.WatchRoutingTableResponse:
        """What is different from the table that was asked for last."""
        routes, policies, quotas = self._routes, self._policies, self._quotas
        self._build(table)
        limits = rules_to_proto(table.quotas) if quotas != table.quotas else None
        changed = [message for name, (route, message) in self._routes.items() if not _known(routes.get(name), route)]
        moved = [message for each, (route, message) in self._policies.items() if not _known(policies.get(each), route)]
        gone = [pb.ModelRoute(org_id=org_id, model=model) for org_id, model in routes.keys() - self._routes.keys()]
        return pb.WatchRoutingTableResponse(
            table=pb.RoutingTable(version=table.version, routes=changed, policies=moved, quotas=limits),
            partial=True,
            gone_routes=gone,
            gone_policy_ids=policies.keys() - self._policies.keys(),
        )

    def _build(self, table: RoutingTable) -> None:
        routes, policies = self._routes, self._policies
        self._routes, self._policies, self._quotas = {}, {}, table.quotas
        for route in table.routes:
            name = (route.org_id, route.model)
            before = routes.get(name)
            self._routes[name] = before if before and before[0] is route else (route, _route_to_proto(route))
        for policy in table.policies:
            known = policies.get(policy.route_id)
            self._policies[policy.route_id] = (
                known if known and known[0] is policy else (policy, policy_to_proto(policy))
            )


def _known(before: "tuple[object, object] | None", now: object) -> bool:
    return before is not None and before[0] == now


def table_from_proto(message: pb.RoutingTable) -> RoutingTable:
    """The whole table."""
    return RoutingTable(
        message.version,
        tuple(_route_from_proto(route) for route in message.routes),
        tuple(policy_from_proto(policy) for policy in message.policies),
        tuple(rule_from_proto(rule) for rule in message.quotas.rules),
    )


def _route_to_proto(route: ModelRoute) -> pb.ModelRoute:
    return pb.ModelRoute(
        org_id=route.org_id,
        model=route.model,
        targets=[target_to_proto(target) for target in route.targets],
        refused_fields=refused_to_proto(route.refused_fields),
        created=route.created,
        sleep=sleep_to_proto(route.sleep),
    )


def _route_from_proto(message: pb.ModelRoute) -> ModelRoute:
    return ModelRoute(
        org_id=message.org_id,
        model=message.model,
        targets=tuple(target_from_proto(target) for target in message.targets),
        refused_fields=refused_from_proto(message.refused_fields),
        created=message.created,
        sleep=sleep_from_proto(message.sleep) if message.HasField("sleep") else None,
    )
