"""Replica sets as protobuf messages and events, and wishes back."""

from dataclasses import asdict
from datetime import datetime, timedelta

from aiops.deployments.v1 import autoscaling_pb2
from aiops.deployments.v1 import deployment_events_pb2 as events_pb
from aiops.deployments.v1 import deployment_service_pb2 as deployment_pb
from aiops.deployments.v1 import replica_set_pb2 as pb
from aiops.deployments.v1 import replica_set_service_pb2 as service_pb
from aiops.types.v1 import engine_pb2, owner_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from controller.deployments.convert import engine_options_from_proto, options_from_proto, program_from_proto
from controller.events import Encoding, Encodings
from controller.replica_sets.model import (
    UNCHANGED,
    ReplicaSet,
    ReplicaSetScaled,
    ReplicaSetStatusChanged,
    SetChanges,
    SetStatus,
    Template,
    TemplateWish,
)
from controller.replica_sets.scaling import Autoscaling, ScalingState
from mesh.clock import unix_ms
from mesh.errors import FieldViolation, InvalidRequestError

TOPIC = "aiops.deployments.v1"
_STATUSES = {
    SetStatus.PROGRESSING: pb.ReplicaSet.progressing,
    SetStatus.READY: pb.ReplicaSet.ready,
    SetStatus.DEGRADED: pb.ReplicaSet.degraded,
    SetStatus.PAUSED: pb.ReplicaSet.paused,
    SetStatus.FAILED: pb.ReplicaSet.failed,
    SetStatus.STOPPED: pb.ReplicaSet.stopped,
}
_PATHS = ("replicas", "template", "progress_deadline_seconds", "autoscaling")


def replica_set_to_proto(replica_set: ReplicaSet) -> pb.ReplicaSet:
    """A set and how it stands."""
    standing, template = replica_set.standing, replica_set.template
    return pb.ReplicaSet(
        replica_set_id=replica_set.replica_set_id,
        name=replica_set.name,
        model_id=replica_set.model_id,
        model_name=replica_set.model_name,
        replicas=replica_set.replicas,
        template=_template_to_proto(template),
        revision=replica_set.revision,
        stable_revision=replica_set.stable_revision,
        status=_STATUSES[standing.status],
        status_reason=standing.reason,
        ready_replicas=standing.ready,
        updated_replicas=standing.updated,
        active_replicas=standing.active,
        failures=standing.failures,
        next_attempt_at=_optional(standing.next_attempt_at),
        rollout_paused=replica_set.paused,
        progress_deadline_seconds=int(replica_set.progress_deadline.total_seconds()),
        owner=owner_pb2.Owner(org_id=replica_set.org_id, user_id=replica_set.user_id),
        created_at=_optional(replica_set.created_at),
        changed_at=_optional(replica_set.changed_at),
        deleted_at=_optional(replica_set.deleted_at),
        is_deleted=replica_set.deleted_at is not None,
        revisions=sorted(replica_set.templates, reverse=True),
        autoscaling=autoscaling_pb2.Autoscaling(**asdict(replica_set.autoscaling)) if replica_set.autoscaling else None,
        autoscaling_status=_scaling_to_proto(replica_set.scaling) if replica_set.autoscaling else None,
    )


def template_from_proto(wish: service_pb.ReplicaTemplateWish) -> TemplateWish:
    """What is asked of new replicas."""
    template = Template(
        image=wish.image,
        environment=dict(wish.environment),
        options=options_from_proto(wish),
        engine_options=engine_options_from_proto(wish.engine_options),
        program=program_from_proto(wish),
    )
    return TemplateWish(template, wish.model_revision, tuple(wish.adapters))


def deadline_from_proto(seconds: int) -> timedelta | None:
    """The progress deadline; None leaves it as it is, or to the default."""
    return timedelta(seconds=seconds) if seconds else None


def changes_from_proto(request: service_pb.UpdateReplicaSetRequest) -> SetChanges:
    """What of a set changes: what the mask names, or without a mask whatever is set. InvalidRequestError."""
    wanted = request.replica_set
    given = (
        wanted.replicas,
        wanted.HasField("template"),
        wanted.progress_deadline_seconds,
        wanted.HasField("autoscaling"),
    )
    paths = set(request.update_mask.paths) or {path for path, value in zip(_PATHS, given, strict=True) if value}
    if unknown := sorted(paths - set(_PATHS)):
        raise InvalidRequestError(FieldViolation("update_mask", f"{unknown[0]} is none of {', '.join(_PATHS)}"))
    return SetChanges(
        replicas=wanted.replicas if "replicas" in paths else None,
        template=template_from_proto(wanted.template) if "template" in paths else None,
        progress_deadline=deadline_from_proto(wanted.progress_deadline_seconds)
        if "progress_deadline_seconds" in paths
        else None,
        autoscaling=autoscaling_from_proto(wanted) if "autoscaling" in paths else UNCHANGED,
    )


def autoscaling_from_proto(
    asked: service_pb.ReplicaSetUpdate | service_pb.CreateReplicaSetRequest,
) -> Autoscaling | None:
    """How the number is to follow the load; what is not set takes its default. InvalidRequestError."""
    if not asked.HasField("autoscaling"):
        return None
    wanted = asked.autoscaling
    if wanted.max_replicas < wanted.min_replicas:
        raise InvalidRequestError(FieldViolation("autoscaling.max_replicas", "it is less than min_replicas"))
    given = {each.name: value for each, value in wanted.ListFields()}
    return Autoscaling(**{"min_replicas": 0, **given})


def _scaling_to_proto(state: ScalingState) -> autoscaling_pb2.AutoscalingStatus:
    return autoscaling_pb2.AutoscalingStatus(
        scaled_at=_optional(state.scaled_at),
        scaled_from=state.scaled_from,
        scaled_to=state.scaled_to,
        scaled_why=state.scaled_why,
        explanation=state.explanation,
        warm_replicas=len(state.standby),
    )


def _template_to_proto(template: Template) -> pb.ReplicaTemplate:
    options = template.options
    return pb.ReplicaTemplate(
        image=template.image,
        environment=template.environment,
        model_digest=template.model_digest,
        context_tokens=options.context,
        max_concurrency=options.concurrency,
        gpu_count=options.gpu_count,
        required_labels=dict(options.required_labels),
        forbidden_labels=dict(options.forbidden_labels),
        priority=options.priority,
        engine_options=engine_pb2.EngineOptions(**asdict(template.engine_options)),
        command=template.program.command,
        paths=deployment_pb.HttpPaths(health=template.program.health, inference=template.program.inference),
        model_revision_number=template.model_revision,
        adapters=[each.model_id for each in template.adapters],
    )


def _optional(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def _status_changed(event: ReplicaSetStatusChanged) -> events_pb.ReplicaSetStatus:
    replica_set, standing = event.replica_set, event.replica_set.standing
    return events_pb.ReplicaSetStatus(
        type="system.replicaSetStatus",
        replica_set_id=replica_set.replica_set_id,
        model_id=replica_set.model_id,
        status=standing.status.value,
        reason=standing.reason,
        replicas=replica_set.replicas,
        ready_replicas=standing.ready,
        revision=replica_set.revision,
        timestamp=unix_ms(event.at),
    )


def _scaled(event: ReplicaSetScaled) -> events_pb.ReplicaSetScaled:
    replica_set, state = event.replica_set, event.replica_set.scaling
    return events_pb.ReplicaSetScaled(
        type="system.replicaSetScaled",
        replica_set_id=replica_set.replica_set_id,
        model_id=replica_set.model_id,
        replicas_before=state.scaled_from,
        replicas=state.scaled_to,
        why=state.scaled_why,
        timestamp=unix_ms(event.at),
    )


EVENTS: Encodings = {
    ReplicaSetScaled: Encoding(
        "system.replicaSetScaled", TOPIC, lambda event: str(event.replica_set.replica_set_id), _scaled
    ),
    ReplicaSetStatusChanged: Encoding(
        "system.replicaSetStatus", TOPIC, lambda event: str(event.replica_set.replica_set_id), _status_changed
    ),
}
