"""What deployments hold of their nodes."""

from dataclasses import dataclass
from datetime import datetime

from controller.deployments.model import DeploymentId, memory_limit_mb
from controller.models.model import ModelId
from controller.nodes.model import NodeId


@dataclass(frozen=True, slots=True)
class Holding:
    """What a deployment holds of its node; `memory_mb` is what its engine was last seen to use.

    One that is not `active` any more, or is to end, holds nothing.
    """

    deployment_id: DeploymentId
    model_id: ModelId
    node_id: NodeId
    gpu_devices: tuple[str, ...]
    memory_allocated: int
    port: int
    memory_mb: int
    # None while it does not run.
    running_since: datetime | None
    priority: int = 0
    active: bool = True

    @property
    def memory_limit_mb(self) -> int:
        """What it holds of each device, or of the node's RAM."""
        return memory_limit_mb(self.memory_allocated, self.gpu_devices)
