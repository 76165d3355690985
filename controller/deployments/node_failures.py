"""Failures that say something of the node and nothing of the model: on another node it may well run."""

from dataclasses import replace

from controller.deployments.model import Deployment, DeploymentStatus
from controller.deployments.workload import Goal

# A deployment fails on so many nodes before it is left where it failed last.
MOST_NODES = 3
# Each is an `aiops.errors.v1.Reason` that a node tells.
NODE_REASONS = frozenset(
    {
        *("DISK_FULL", "CHECKSUM_MISMATCH", "STORAGE_UNAVAILABLE"),
        *("ENGINE_UNAVAILABLE", "CONTAINER_ENGINE_UNAVAILABLE", "GPU_DEVICE_NOT_FOUND", "PORT_IN_USE"),
        *("IMAGE_NOT_ALLOWED", "IMAGE_PULL_FAILED"),
    }
)


def may_leave(deployment: Deployment) -> bool:
    """Whether it failed for its node's sake and may be tried on another one.

    Who put it there by hand knows better; replicas of sets and replacements are seen to by who made them.
    """
    alone = not (deployment.pinned or deployment.replica_set_id or deployment.replaces)
    failed = deployment.goal is Goal.RUN and deployment.status is DeploymentStatus.FAILED
    blames_node = deployment.observed.error_reason in NODE_REASONS
    return alone and failed and blames_node and len(deployment.failed_on) < MOST_NODES - 1


def remembering_node(deployment: Deployment) -> Deployment:
    """It does not come back to its node before it has run somewhere."""
    return replace(deployment, failed_on=(*deployment.failed_on, deployment.node_id))
