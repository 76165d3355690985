"""What inference routers follow, as protobuf messages."""

from aiops.deployments.v1 import deployment_service_pb2 as pb
from aiops.quotas.v1 import quota_pb2

from controller.deployments.convert import replica_to_proto, sleepy_to_proto
from controller.quotas.convert import quota_to_proto
from controller.routing.convert import route_to_proto
from controller.routing.feed import Change


def change_to_proto(change: Change) -> pb.WatchReplicasResponse:
    """Everything, or what is different."""
    return pb.WatchReplicasResponse(
        replicas=map(replica_to_proto, change.replicas),
        routes=map(route_to_proto, change.routes),
        partial=not change.whole,
        gone_deployment_ids=change.gone,
        gone_route_ids=change.gone_routes,
        sleepy=map(sleepy_to_proto, change.sleepy),
        quotas=None if change.quotas is None else quota_pb2.Quotas(quotas=map(quota_to_proto, change.quotas)),
    )
