"""Events of the platform as occurrences; notifications as events of the platform."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from aiops.deployments.v1 import deployment_events_pb2 as deployments_pb
from aiops.models.v1 import model_events_pb2 as models_pb
from aiops.nodes.v1 import node_events_pb2 as nodes_pb
from aiops.quotas.v1 import quota_events_pb2 as quotas_pb
from aiops.quotas.v1 import quota_pb2
from aiops.routing.v1 import rollout_pb2 as rollout_pb
from aiops.routing.v1 import route_events_pb2 as routing_pb
from aiops.system.v1 import system_events_pb2 as pb
from google.protobuf.json_format import Parse
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from controller.events import Encoding, Encodings
from controller.notifications.model import (
    BudgetReached,
    DeploymentCreated,
    DeploymentStatusChanged,
    ModelDeleted,
    ModelDownloaded,
    NodeOffline,
    NodeOnline,
    Notification,
    Occurrence,
    RolloutDecided,
    RoutingRefused,
)
from mesh.clock import unix_ms

TOPIC = "aiops.system.v1"
# The topics whose events people may want to hear of.
SOURCES = ("aiops.deployments.v1", "aiops.models.v1", "aiops.nodes.v1", "aiops.quotas.v1", "aiops.routing.v1")
AnyMessage = TypeVar("AnyMessage", bound=Message)


def _deployment_created(value: str) -> DeploymentCreated:
    event = _read(value, deployments_pb.DeploymentCreated())
    return DeploymentCreated(event.deployment_id, event.model_id, event.node_id, _at(event.timestamp))


def _deployment_status(value: str) -> DeploymentStatusChanged:
    event = _read(value, deployments_pb.DeploymentStatus())
    return DeploymentStatusChanged(event.deployment_id, event.status, event.error, event.endpoint, _at(event.timestamp))


def _model_downloaded(value: str) -> ModelDownloaded:
    event = _read(value, models_pb.ModelDownloaded())
    return ModelDownloaded(event.model_id, event.size_mb, _at(event.timestamp))


def _model_deleted(value: str) -> ModelDeleted:
    event = _read(value, models_pb.ModelDeleted())
    return ModelDeleted(event.model_id, _at(event.timestamp))


def _node_online(value: str) -> NodeOnline:
    event = _read(value, nodes_pb.NodeOnline())
    return NodeOnline(event.node_id, event.node_name, _at(event.timestamp))


def _node_offline(value: str) -> NodeOffline:
    event = _read(value, nodes_pb.NodeOffline())
    return NodeOffline(event.node_id, event.reason, _at(event.timestamp))


def _routing_refused(value: str) -> RoutingRefused:
    event = _read(value, routing_pb.RoutingRefused())
    return RoutingRefused(event.subject, event.reason, event.reported_by, _at(event.timestamp))


def _rollout_changed(value: str) -> RolloutDecided:
    event = _read(value, routing_pb.RolloutChanged())
    rollout, decision = event.rollout, event.rollout.decisions[-1]
    action = rollout_pb.RolloutDecision.Action.Name(decision.action)
    return RolloutDecided(
        event.rollout_id, rollout.route_name, rollout.spec.candidate, action, decision.reason, _at(event.timestamp)
    )


def _budget_reached(value: str) -> BudgetReached:
    event = _read(value, quotas_pb.BudgetReached())
    subject = quota_pb2.Quota.Subject.Name(event.subject).replace("_", " ")
    return BudgetReached(
        event.quota_id, f"{subject} {event.subject_id}", event.percent, event.spent, event.budget, _at(event.timestamp)
    )


# By CloudEvents type: how the event's JSON is read.
OCCURRENCES: Mapping[str, Callable[[str], Occurrence]] = {
    "system.deploymentCreated": _deployment_created,
    "system.deploymentStatus": _deployment_status,
    "system.modelDownloaded": _model_downloaded,
    "system.modelDeleted": _model_deleted,
    "system.node.online": _node_online,
    "system.node.offline": _node_offline,
    "system.routingRefused": _routing_refused,
    "system.rolloutChanged": _rollout_changed,
    "system.budgetReached": _budget_reached,
}


def _subject(notification: Notification) -> str:
    return notification.subject


def notification_to_proto(notification: Notification) -> pb.SystemNotification:
    """The event that tells of it."""
    metadata = Struct()
    metadata.update(notification.metadata)
    return pb.SystemNotification(
        type="system.notification",
        level=notification.level.value,
        title=notification.title,
        message=notification.message,
        action=notification.action,
        metadata=metadata,
        timestamp=unix_ms(notification.at),
    )


EVENTS: Encodings = {Notification: Encoding("system.notification", TOPIC, _subject, notification_to_proto)}


def _read(value: str, message: AnyMessage) -> AnyMessage:
    return Parse(value, message, ignore_unknown_fields=True)


def _at(timestamp_ms: float) -> datetime:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
