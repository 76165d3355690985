"""The controller's feed of replicas, which a test fills."""

from collections.abc import AsyncIterator
from typing import Any

from aiops.deployments.v1 import deployment_service_pb2 as pb
from aiops.deployments.v1.deployment_service_pb2_grpc import ReplicaServiceServicer

from tests.fakes.control_plane import Feed


class Replicas(ReplicaServiceServicer):
    """Sends every state of the feed."""

    def __init__(self, feed: Feed[pb.WatchReplicasResponse]) -> None:
        self._feed = feed

    async def WatchReplicas(self, request: Any, context: Any) -> AsyncIterator[pb.WatchReplicasResponse]:
        async for state in self._feed.states():
            yield state
