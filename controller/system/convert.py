"""Health, figures and announcements as protobuf messages."""

from aiops.system.v1 import system_events_pb2 as events_pb
from aiops.system.v1 import system_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from controller.events import Encoding, Encodings
from controller.system.model import Announced, Health, HealthLevel, Stats
from mesh.clock import unix_ms

TOPIC = "aiops.system.v1"
_LEVELS = {
    HealthLevel.HEALTHY: pb.GetHealthResponse.healthy,
    HealthLevel.DEGRADED: pb.GetHealthResponse.degraded,
    HealthLevel.UNHEALTHY: pb.GetHealthResponse.unhealthy,
}


def health_to_proto(health: Health, version: str) -> pb.GetHealthResponse:
    """The platform, part by part."""
    checked_at = Timestamp()
    checked_at.FromDatetime(health.checked_at)
    return pb.GetHealthResponse(
        status=_LEVELS[health.level],
        components=[
            pb.ComponentHealth(name=part.name, status=_LEVELS[part.level], message=part.message)
            for part in health.components
        ],
        version=version,
        checked_at=checked_at,
    )


def stats_to_proto(stats: Stats) -> pb.GetStatsResponse:
    """The figures."""
    return pb.GetStatsResponse(
        node_count=stats.node_count,
        nodes_online=stats.nodes_online,
        gpu_count=stats.gpu_count,
        model_count=stats.model_count,
        deployment_count=stats.deployment_count,
        deployments_running=stats.deployments_running,
        user_count=stats.user_count,
        outbox_backlog=stats.outbox_backlog,
    )


def _announced(event: Announced) -> events_pb.SystemBroadcast:
    return events_pb.SystemBroadcast(
        type="system.broadcast", message=event.message, severity=event.severity, timestamp=unix_ms(event.at)
    )


EVENTS: Encodings = {Announced: Encoding("system.broadcast", TOPIC, lambda event: "platform", _announced)}
