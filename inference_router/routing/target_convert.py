"""Targets and refused fields as protobuf messages, and back."""

from collections.abc import Iterable

from aiops.routing.v1 import routing_service_pb2 as pb

from inference_router.routing.model import RefusedField, Target


def refused_to_proto(fields: Iterable[RefusedField]) -> list[pb.RefusedField]:
    """What is refused."""
    return [pb.RefusedField(path=field.path, harmless_values=field.harmless_values) for field in fields]


def refused_from_proto(messages: Iterable[pb.RefusedField]) -> tuple[RefusedField, ...]:
    """What is refused."""
    return tuple(RefusedField(message.path, tuple(message.harmless_values)) for message in messages)


def target_to_proto(target: Target) -> pb.Target:
    """One instance."""
    return pb.Target(
        deployment_id=target.deployment_id,
        instance_id=target.instance_id,
        node_id=target.node_id,
        address=target.address,
        port=target.port,
        inference_path=target.inference_path,
        weight=target.weight,
        private_paths=target.private_paths,
        tunnel=target.tunnel,
        grpc_port=target.grpc_port,
    )


def target_from_proto(message: pb.Target) -> Target:
    """One instance."""
    return Target(
        deployment_id=message.deployment_id,
        instance_id=message.instance_id,
        node_id=message.node_id,
        address=message.address,
        port=message.port,
        inference_path=message.inference_path,
        weight=message.weight,
        private_paths=tuple(message.private_paths),
        tunnel=message.tunnel,
        grpc_port=message.grpc_port,
    )
