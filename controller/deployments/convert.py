"""Deployments as protobuf messages and events, and wishes back."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

from aiops.deployments.v1 import deployment_events_pb2 as events_pb
from aiops.deployments.v1 import deployment_pb2 as pb
from aiops.deployments.v1 import deployment_service_pb2 as service_pb
from aiops.deployments.v1 import replica_set_service_pb2 as set_pb
from aiops.types.v1 import engine_pb2, owner_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from controller.deployments.model import (
    Deployment,
    DeploymentCreated,
    DeploymentEvicted,
    DeploymentStatus,
    DeploymentStatusChanged,
    Usage,
)
from controller.deployments.serving import Replica
from controller.deployments.sleepy import SleepyModel
from controller.deployments.traffic import NONE, Traffic
from controller.deployments.wish import Wish
from controller.deployments.workload import EngineOptions, HealthStatus, Program
from controller.events import Encoding, Encodings
from controller.nodes.model import NodeId
from controller.placement.model import Eviction, NodeRefusal, Options, Placement, Refusal, Tally
from mesh.clock import unix_ms
from mesh.errors import FieldViolation, InvalidRequestError

TOPIC = "aiops.deployments.v1"
MOST_COUNTED = 2**32 - 1
_STATUSES = {
    DeploymentStatus.DEPLOYING: pb.Deployment.deploying,
    DeploymentStatus.RUNNING: pb.Deployment.running,
    DeploymentStatus.STOPPED: pb.Deployment.stopped,
    DeploymentStatus.FAILED: pb.Deployment.failed,
}
_HEALTH = {
    HealthStatus.HEALTHY: pb.Deployment.healthy,
    HealthStatus.UNHEALTHY: pb.Deployment.unhealthy,
    HealthStatus.UNKNOWN: pb.Deployment.unknown,
}
_STATUSES_READ = {number: status for status, number in _STATUSES.items()}


def deployment_to_proto(deployment: Deployment, traffic: Traffic = NONE) -> pb.Deployment:
    """A deployment with what its node last said, and the requests that it answered."""
    observed = deployment.observed
    return pb.Deployment(
        deployment_id=deployment.deployment_id,
        instance_id=deployment.instance_id,
        model_id=deployment.model_id,
        model_name=deployment.model_name,
        model_revision=deployment.model_revision,
        node_id=deployment.node_id,
        container_id=observed.container_id,
        container_name=deployment.container_name,
        image=deployment.image,
        gpu_device=deployment.gpu_device,
        memory_allocated=deployment.memory_allocated,
        port=deployment.port,
        endpoint=deployment.endpoint,
        status=_STATUSES[deployment.status],
        health_status=_HEALTH[observed.health_status],
        error_message=observed.error_message,
        request_count=min(traffic.requests, MOST_COUNTED),
        avg_latency_ms=traffic.avg_latency_ms,
        last_request_at=_optional(traffic.last_request_at),
        deployed_by=deployment.user_id,
        deployed_at=_optional(deployment.deployed_at),
        stopped_at=_optional(deployment.stopped_at),
        owner=owner_pb2.Owner(org_id=deployment.org_id, user_id=deployment.user_id),
        created_at=_timestamp(deployment.created_at),
        changed_at=_timestamp(deployment.changed_at),
        deleted_at=_optional(deployment.deleted_at),
        is_deleted=deployment.deleted_at is not None,
        phase=observed.phase,
        progress=observed.progress,
        phase_detail=observed.detail,
        engine=observed.engine,
        log_tail=observed.log_tail,
        epoch=deployment.epoch,
        restarts=observed.restarts,
        engine_options=engine_pb2.EngineOptions(**asdict(deployment.engine_options)),
        adapters=_adapters(deployment),
        status_reason=deployment.status_reason,
        replica_set_id=deployment.replica_set_id,
        template_revision=deployment.template_revision,
        next_attempt_at=_optional(observed.next_attempt_at),
        **_asked(deployment.options),
    )


def _asked(options: Options) -> dict[str, Any]:
    return {
        "context_tokens": options.context,
        "max_concurrency": options.concurrency,
        "gpu_count": options.gpu_count,
        "required_labels": dict(options.required_labels),
        "forbidden_labels": dict(options.forbidden_labels),
        "priority": options.priority,
    }


def plan_to_proto(planned: Placement | Refusal) -> service_pb.PlanDeploymentResponse:
    """Where a deployment would go, and why not elsewhere."""
    placement = placement_to_proto(planned) if isinstance(planned, Placement) else None
    return service_pb.PlanDeploymentResponse(
        placement=placement,
        refusals=map(_refusal_to_proto, planned.refusals),
        refusal_counts=map(_tally_to_proto, planned.tallies),
    )


def placement_to_proto(placement: Placement) -> pb.Placement:
    """Where a deployment would go."""
    return pb.Placement(
        node_id=placement.node_id,
        node_name=placement.node_name,
        gpu_devices=placement.gpu_devices,
        memory_mb=placement.memory_mb,
        port=placement.port,
        engine=placement.engine,
        explanation=placement.explanation,
        evictions=map(_eviction_to_proto, placement.evictions),
        ready_seconds=placement.ready_s,
    )


def usage_to_proto(usage: Usage, traffic: Traffic = NONE) -> pb.DeploymentMetrics:
    """What a deployment uses."""
    return pb.DeploymentMetrics(
        deployment_id=usage.deployment_id,
        request_count=min(traffic.requests, MOST_COUNTED),
        avg_latency_ms=traffic.avg_latency_ms,
        memory_mb=usage.memory_mb,
        cpu_percent=usage.cpu_percent,
        restarts=usage.restarts,
        uptime_seconds=usage.uptime_seconds,
        measured_at=_optional(usage.measured_at),
        engine_load=engine_pb2.EngineLoad(**asdict(usage.engine_load)) if usage.engine_load else None,
    )


def replica_to_proto(replica: Replica) -> service_pb.Replica:
    """An instance that may receive traffic."""
    return service_pb.Replica(
        deployment_id=replica.deployment_id,
        instance_id=replica.instance_id,
        org_id=replica.org_id,
        model_id=replica.model_id,
        model_name=replica.model_name,
        node_id=replica.node_id,
        address=replica.address,
        port=replica.port,
        epoch=replica.epoch,
        engine=replica.engine,
        inference_path=replica.inference_path,
        unsupported_fields=[
            service_pb.UnsupportedField(path=each.path, harmless_values=each.harmless_values)
            for each in replica.unsupported_fields
        ],
        private_paths=replica.private_paths,
        grpc_port=replica.grpc_port,
        single_use_connections=replica.single_use_connections,
        created=replica.created_at.timestamp(),
        tunnel=replica.tunnel,
        replica_set_id=replica.replica_set_id,
        load_weight=replica.load_weight,
        member_of=replica.member_of,
    )


def sleepy_to_proto(model: SleepyModel) -> service_pb.SleepyModel:
    """A model that may be without a replica."""
    return service_pb.SleepyModel(
        org_id=model.org_id,
        model_name=model.model_name,
        replica_set_id=model.replica_set_id,
        hold_seconds=model.hold_seconds,
        standing=model.standing,
        created=model.created_at.timestamp(),
    )


def status_from_proto(status: "pb.Deployment.Status.ValueType") -> DeploymentStatus | None:
    """The status to filter by; None for every one."""
    return _STATUSES_READ.get(status)


def wish_from_proto(request: service_pb.CreateDeploymentRequest | service_pb.PlanDeploymentRequest) -> Wish:
    """What is asked of a deployment. InvalidRequestError for a device that is named twice."""
    devices = tuple(device for device in request.gpu_device.split(",") if device)
    if len(set(devices)) != len(devices):
        raise InvalidRequestError(FieldViolation("gpu_device", "names a device twice"))
    return Wish(
        request.model_id,
        NodeId(request.node_id) if request.node_id else None,
        devices,
        request.port,
        options=options_from_proto(request),
        engine_options=engine_options_from_proto(request.engine_options),
        model_revision=request.model_revision,
        **_own(request),
    )


def options_from_proto(
    request: service_pb.CreateDeploymentRequest | service_pb.PlanDeploymentRequest | set_pb.ReplicaTemplateWish,
) -> Options:
    """How a deployment is to be served, and where it may go."""
    return Options(
        context=request.context_tokens,
        concurrency=request.max_concurrency,
        gpu_count=request.gpu_count,
        required_labels=tuple(sorted(request.required_labels.items())),
        forbidden_labels=tuple(sorted(request.forbidden_labels.items())),
        priority=request.priority,
    )


def engine_options_from_proto(message: engine_pb2.EngineOptions) -> EngineOptions:
    """What is asked of the engine."""
    return EngineOptions(
        tool_parser=message.tool_parser,
        max_adapters=message.max_adapters,
        extra=dict(message.extra),
    )


def program_from_proto(
    request: service_pb.CreateDeploymentRequest | set_pb.ReplicaTemplateWish,
) -> Program:
    """What a custom model runs, and where it is asked."""
    return Program(tuple(request.command), request.paths.health, request.paths.inference)


def _own(request: service_pb.CreateDeploymentRequest | service_pb.PlanDeploymentRequest) -> dict[str, Any]:
    """The image, and what only matters once it runs."""
    if isinstance(request, service_pb.PlanDeploymentRequest):
        return {"image": request.image}
    return {"image": request.image, "environment": dict(request.environment), "program": program_from_proto(request)}


def _adapters(deployment: Deployment) -> Iterator[pb.Adapter]:
    told = {each.name: each for each in deployment.observed.adapters}
    for adapter in deployment.adapters:
        report = told.get(adapter.name)
        state = pb.Adapter.loading
        if report is not None and (report.loaded or report.error):
            state = pb.Adapter.loaded if report.loaded else pb.Adapter.failed
        error = report.error if report is not None else ""
        yield pb.Adapter(model_id=adapter.model_id, name=adapter.name, state=state, error=error)


def _refusal_to_proto(refusal: NodeRefusal) -> pb.NodeRefusal:
    return pb.NodeRefusal(
        node_id=refusal.node_id, node_name=refusal.node_name, reason=refusal.reason, cause=refusal.cause.value
    )


def _tally_to_proto(tally: Tally) -> pb.RefusalCount:
    return pb.RefusalCount(cause=tally.cause.value, nodes=tally.nodes)


def _eviction_to_proto(eviction: Eviction) -> pb.Eviction:
    return pb.Eviction(
        deployment_id=eviction.deployment_id,
        priority=eviction.priority,
        memory_mb=eviction.memory_mb,
        reason=eviction.reason,
    )


def _timestamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def _optional(moment: datetime | None) -> Timestamp | None:
    return None if moment is None else _timestamp(moment)


def _created(event: DeploymentCreated) -> events_pb.DeploymentCreated:
    deployment = event.deployment
    return events_pb.DeploymentCreated(
        type="system.deploymentCreated",
        deployment_id=deployment.deployment_id,
        model_id=deployment.model_id,
        node_id=deployment.node_id,
        created_by=deployment.user_id,
        timestamp=unix_ms(event.at),
    )


def _status_changed(event: DeploymentStatusChanged) -> events_pb.DeploymentStatus:
    deployment = event.deployment
    runs = deployment.status is DeploymentStatus.RUNNING
    return events_pb.DeploymentStatus(
        type="system.deploymentStatus",
        deployment_id=deployment.deployment_id,
        status=deployment.status.value,
        progress=deployment.observed.progress,
        error=deployment.observed.error_message,
        endpoint=deployment.endpoint if runs else "",
        reason=deployment.status_reason,
        node_id=deployment.node_id,
        epoch=deployment.epoch,
        timestamp=unix_ms(event.at),
    )


def _evicted(event: DeploymentEvicted) -> events_pb.DeploymentEvicted:
    return events_pb.DeploymentEvicted(
        type="system.deploymentEvicted",
        deployment_id=event.deployment.deployment_id,
        node_id=event.deployment.node_id,
        evicted_by=event.evicted_by,
        reason=event.cause,
        timestamp=unix_ms(event.at),
    )


EVENTS: Encodings = {
    DeploymentCreated: Encoding(
        "system.deploymentCreated", TOPIC, lambda event: str(event.deployment.deployment_id), _created
    ),
    DeploymentStatusChanged: Encoding(
        "system.deploymentStatus", TOPIC, lambda event: str(event.deployment.deployment_id), _status_changed
    ),
    DeploymentEvicted: Encoding(
        "system.deploymentEvicted", TOPIC, lambda event: str(event.deployment.deployment_id), _evicted
    ),
}
