"""A deployment as whoever routes requests sees it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from controller.deployments.model import Deployment, DeploymentId, InstanceId
from controller.deployments.workload import UnsupportedField
from controller.models.model import ModelId
from controller.nodes.model import NodeId
from mesh.identity import OrgId


@dataclass(frozen=True, slots=True)
class Replica:
    """An instance that may receive traffic."""

    deployment_id: DeploymentId
    instance_id: InstanceId
    org_id: OrgId
    model_id: ModelId
    model_name: str
    node_id: NodeId
    address: str
    port: int
    epoch: int
    engine: str
    inference_path: str
    unsupported_fields: tuple[UnsupportedField, ...]
    private_paths: tuple[str, ...]
    created_at: datetime
    # Reached through its node's tunnel instead of by address.
    tunnel: bool = False
    grpc_port: int = 0
    # The replica set, where the number of its replicas follows the load.
    replica_set_id: str = ""
    # What share of requests its engine is fit for, 1 to 10; 0 is not known.
    load_weight: int = 0
    # The replica set; empty when it stands alone.
    member_of: str = ""
    single_use_connections: bool = False


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
        single_use_connections=observed.single_use_connections,
        replica_set_id=deployment.replica_set_id,
        member_of=deployment.replica_set_id,
    )
    yield itself
    for adapter in deployment.loaded_adapters:
        yield replace(itself, model_id=adapter.model_id, model_name=adapter.name)
