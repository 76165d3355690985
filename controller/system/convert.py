"""Between the platform's model and its contract."""

from aiops.system.v1 import system_events_pb2 as events
from aiops.system.v1 import system_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from controller.events import Encoding, Encodings
from controller.system.model import Announced, ComponentHealth, Health, PlatformHealth, Stats
from mesh.clock import unix_ms

TOPIC = "aiops.system.v1"

_HEALTH = {
    Health.HEALTHY: pb.GetHealthResponse.healthy,
    Health.DEGRADED: pb.GetHealthResponse.degraded,
    Health.UNHEALTHY: pb.GetHealthResponse.unhealthy,
}


def health_to_proto(health: PlatformHealth) -> pb.GetHealthResponse:
    """The platform's health as the contract has it."""
    checked_at = Timestamp()
    checked_at.FromDatetime(health.checked_at)
    return pb.GetHealthResponse(
        status=_HEALTH[health.health],
        components=[_component(each) for each in health.components],
        version=health.version,
        checked_at=checked_at,
    )


def stats_to_proto(stats: Stats) -> pb.GetStatsResponse:
    """The numbers as the contract has them."""
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


def _component(component: ComponentHealth) -> pb.ComponentHealth:
    return pb.ComponentHealth(name=component.name, status=_HEALTH[component.health], message=component.message)


def _announced(event: Announced) -> events.SystemBroadcast:
    return events.SystemBroadcast(
        type="system.broadcast", message=event.message, severity=event.severity, timestamp=unix_ms(event.at)
    )


EVENTS: Encodings = {Announced: Encoding("system.broadcast", TOPIC, lambda event: event.announcement_id, _announced)}
