"""Targets and refused fields as protobuf messages, and back."""

from collections.abc import Iterable
from dataclasses import asdict

from aiops.routing.v1 import routing_service_pb2 as pb

from inference_router.routing.model import RefusedField, Sleep, Target


def refused_to_proto(fields: Iterable[RefusedField]) -> list[pb.RefusedField]:
    """What is refused."""
    return [pb.RefusedField(path=field.path, harmless_values=field.harmless_values) for field in fields]


def refused_from_proto(messages: Iterable[pb.RefusedField]) -> tuple[RefusedField, ...]:
    """What is refused."""
    return tuple(RefusedField(message.path, tuple(message.harmless_values)) for message in messages)


def sleep_to_proto(sleep: Sleep | None) -> pb.Sleep | None:
    """How a model sleeps, where it may."""
    return pb.Sleep(**asdict(sleep)) if sleep is not None else None


def sleep_from_proto(message: pb.Sleep) -> Sleep:
    """How a model sleeps."""
    return Sleep(message.replica_set_id, message.hold_seconds, message.standing)


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
        replica_set_id=target.replica_set_id,
        load_weight=target.load_weight,
        member_of=target.member_of,
        single_use_connections=target.single_use_connections,
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
        replica_set_id=message.replica_set_id,
        load_weight=message.load_weight,
        member_of=message.member_of,
        single_use_connections=message.single_use_connections,
    )
