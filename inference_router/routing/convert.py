"""Replicas from protobuf messages; the routing table to them and back."""

from aiops.deployments.v1 import deployment_service_pb2 as deployments_pb
from aiops.routing.v1 import routing_service_pb2 as pb

from inference_router.routing.model import ModelRoute, RefusedField, Replica
from inference_router.routing.policy_convert import policy_from_proto, policy_to_proto
from inference_router.routing.table import RoutingTable
from inference_router.routing.target_convert import (
    refused_from_proto,
    refused_to_proto,
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
    )


def table_to_proto(table: RoutingTable) -> pb.RoutingTable:
    """The whole table."""
    return pb.RoutingTable(
        version=table.version,
        routes=[_route_to_proto(route) for route in table.routes],
        policies=[policy_to_proto(policy) for policy in table.policies],
    )


def table_from_proto(message: pb.RoutingTable) -> RoutingTable:
    """The whole table."""
    return RoutingTable(
        message.version,
        tuple(_route_from_proto(route) for route in message.routes),
        tuple(policy_from_proto(policy) for policy in message.policies),
    )


def _route_to_proto(route: ModelRoute) -> pb.ModelRoute:
    return pb.ModelRoute(
        org_id=route.org_id,
        model=route.model,
        targets=[target_to_proto(target) for target in route.targets],
        refused_fields=refused_to_proto(route.refused_fields),
        created=route.created,
    )


def _route_from_proto(message: pb.ModelRoute) -> ModelRoute:
    return ModelRoute(
        org_id=message.org_id,
        model=message.model,
        targets=tuple(target_from_proto(target) for target in message.targets),
        refused_fields=refused_from_proto(message.refused_fields),
        created=message.created,
    )
