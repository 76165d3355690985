"""A deployment as whoever routes requests sees it."""

from collections.abc import Iterator
from dataclasses import replace

from controller.deployments.model import Deployment, Replica


def replicas_of(deployment: Deployment, address: str, tunnel: bool) -> Iterator[Replica]:
    """The instance under its model's name, and under that of each adapter that its engine has."""
    observed = deployment.observed
    itself = Replica(
        deployment_id=deployment.deployment_id,
        instance_id=deployment.instance_id,
        org_id=deployment.org_id,
        model_id=deployment.model_id,
        model_name=deployment.model_name,
        node_id=deployment.node_id,
        address=address,
        port=deployment.port,
        epoch=deployment.epoch,
        engine=observed.engine,
        inference_path=observed.inference_path,
        unsupported_fields=observed.unsupported_fields,
        private_paths=observed.private_paths,
        created_at=deployment.created_at,
        tunnel=tunnel,
        grpc_port=observed.grpc_port,
        replica_set_id=deployment.replica_set_id,
        member_of=deployment.replica_set_id,
    )
    yield itself
    for adapter in deployment.loaded_adapters:
        yield replace(itself, model_id=adapter.model_id, model_name=adapter.name)
