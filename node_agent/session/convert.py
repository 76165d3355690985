"""Session messages to and from what the agent works with."""

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta

from aiops.nodes.v1 import node_pb2
from aiops.nodes.v1 import node_session_service_pb2 as pb
from aiops.types.v1 import engine_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from node_agent.cache.model import Artifact, ArtifactFile
from node_agent.engines.engine import EngineOptions, Program
from node_agent.engines.live import EngineLoad
from node_agent.inventory.model import Gpu, Reading
from node_agent.runtime.model import RuntimeReadiness
from node_agent.tunnel.model import Report
from node_agent.workloads.model import (
    Acknowledgement,
    Container,
    Decision,
    DesiredState,
    EngineFacts,
    Goal,
    WorkloadAdapter,
    WorkloadId,
    WorkloadKey,
    WorkloadSpec,
    WorkloadStatus,
)

# A workload's id names a directory here.
_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_GOALS = {pb.WorkloadSpec.run: Goal.RUN, pb.WorkloadSpec.end: Goal.END}


def is_plain_id(text: str) -> bool:
    """Whether the id can name a directory."""
    return bool(_PLAIN_ID.fullmatch(text))


def desired_from_proto(message: pb.DesiredState) -> DesiredState:
    """The desired state; workloads with an unusable id or goal are left out."""
    usable = (each for each in message.workloads if is_plain_id(each.workload_id) and each.goal in _GOALS)
    return DesiredState(
        message.revision, tuple(spec_from_proto(each) for each in usable), message.snapshot, message.base_revision
    )


def decision_from_proto(message: pb.AdoptionDecision) -> Decision:
    """What should become of a workload that the agent said it runs."""
    key = WorkloadKey(WorkloadId(message.workload_id), message.replica)
    return Decision(key, message.epoch, adopt=message.decision == pb.AdoptionDecision.adopt, reason=message.reason)


def acknowledgement_to_proto(answer: Acknowledgement) -> pb.ConnectRequest:
    """Whether a wish was taken on."""
    status = pb.CommandAck.rejected if answer.refusal else pb.CommandAck.accepted
    return pb.ConnectRequest(
        command_ack=pb.CommandAck(request_id=answer.request_id, status=status, reason=answer.refusal)
    )


def spec_from_proto(message: pb.WorkloadSpec) -> WorkloadSpec:
    """One workload's specification."""
    return WorkloadSpec(
        key=WorkloadKey(WorkloadId(message.workload_id), message.replica),
        epoch=message.epoch,
        goal=_GOALS[message.goal],
        container_name=message.container_name,
        model_id=message.model_id,
        served_name=message.served_name,
        framework=message.framework,
        task=message.task,
        artifact=_artifact(message.artifact),
        port=message.port,
        gpu_devices=tuple(message.gpu_devices),
        memory_limit_mb=message.memory_limit_mb,
        environment=dict(message.environment),
        image=message.image,
        job_id=message.job_id,
        request_id=message.request_id,
        drain=timedelta(seconds=message.drain_seconds),
        options=_options(message),
        adapters=tuple(
            WorkloadAdapter(each.name, _artifact(each.artifact)) for each in message.adapters if is_plain_id(each.name)
        ),
        program=Program(tuple(message.command), message.paths.health, message.paths.inference),
    )


def status_to_proto(status: WorkloadStatus, sequence: int = 0) -> pb.WorkloadStatus:
    """A status; `sequence` 0 for one that only describes the present, in Hello."""
    process, failure, container = status.process, status.failure, status.container
    return pb.WorkloadStatus(
        workload_id=status.key.workload_id,
        replica=status.key.replica,
        epoch=status.epoch,
        state=pb.WorkloadStatus.State.Value(status.state.value),
        progress=status.progress,
        container_id=process.instance.container_id if process else "",
        runtime=container.runtime if container else "",
        engine=process.engine if process else "",
        port=process.port if process else 0,
        error=failure.error if failure else "",
        error_reason=failure.reason if failure else "",
        log_tail=failure.log_tail if failure else "",
        health=status.health.value,
        sequence=sequence,
        facts=_facts_to_proto(process.facts) if process and process.facts else None,
        container=container_to_proto(container) if container else None,
        event=status.event.value,
        exit_code=status.exit_code,
        next_attempt_seconds=status.next_attempt.total_seconds(),
        revision=status.revision,
        detail=status.detail,
        adapters=[pb.AdapterStatus(name=each.name, loaded=each.loaded, error=each.error) for each in status.adapters],
    )


def container_to_proto(container: Container, gpu_memory_mb: int = 0) -> node_pb2.Container:
    """A workload as it runs now, and what it has of a card."""
    record, process = container.record, container.record.process
    message = node_pb2.Container(
        container_id=process.instance.container_id if process else "",
        container_name=record.spec.container_name,
        image=record.spec.image,
        runtime=container.runtime,
        workload_id=record.spec.key.workload_id,
        replica=record.spec.key.replica,
        epoch=process.epoch if process else record.spec.epoch,
        status=container.state.value,
        port=process.port if process else 0,
        pid=process.instance.pid if process else 0,
        memory_mb=container.memory_mb,
        gpu_memory_mb=gpu_memory_mb,
        cpu_percent=container.cpu_percent,
        restarts=record.restarts,
    )
    if process:
        message.started_at.FromDatetime(process.started_at)
    if container.load:
        message.engine_load.CopyFrom(_load_to_proto(container.load))
    return message


def inventory_to_proto(reading: Reading) -> pb.Inventory:
    """What the machine has."""
    return pb.Inventory(
        gpu_devices=_gpus(reading.gpus.devices),
        cpu_cores=reading.cpu_cores,
        ram_total=reading.ram_total,
        ram_free=reading.ram_free,
        disk_total=reading.disk_total,
        disk_free=reading.disk_free,
        driver_version=reading.gpus.driver_version,
        gpu_error=reading.gpus.error,
    )


def runtimes_to_proto(readiness: RuntimeReadiness, images: Mapping[str, str]) -> pb.RuntimeReport:
    """What can run workloads now, and in which images."""
    return pb.RuntimeReport(names=readiness.names, trouble=readiness.trouble, images=images)


def metrics_to_proto(reading: Reading, node_id: str) -> node_pb2.NodeMetrics:
    """How busy the machine is."""
    measured_at = Timestamp()
    measured_at.FromDatetime(reading.measured_at)
    return node_pb2.NodeMetrics(
        node_id=node_id,
        gpu_devices=_gpus(reading.gpus.devices),
        cpu_utilization=reading.cpu_utilization,
        ram_total=reading.ram_total,
        ram_free=reading.ram_free,
        disk_free=reading.disk_free,
        disk_total=reading.disk_total,
        measured_at=measured_at,
    )


def tunnel_to_proto(report: Report | None) -> node_pb2.Tunnel | None:
    """How the node's tunnel is; None for a node that the gateway dials."""
    if report is None:
        return None
    return node_pb2.Tunnel(
        state=report.state.value,
        version=report.version,
        error=report.error,
        connections=report.connections,
        gateway_address=report.gateway_address,
    )


def _gpus(devices: Iterable[Gpu]) -> list[node_pb2.GpuDevice]:
    return [
        node_pb2.GpuDevice(
            device_id=each.device_id,
            model=each.model,
            memory_total=each.memory_total,
            memory_free=each.memory_free,
            utilization=each.utilization,
            temperature=each.temperature,
            uuid=each.uuid,
            error=each.error,
            parent_device_id=each.parent_device_id,
            mig_profile=each.mig_profile,
            mig=each.mig,
            exclusive=each.exclusive,
            mps=each.mps,
        )
        for each in devices
    ]


def _load_to_proto(load: EngineLoad) -> engine_pb2.EngineLoad:
    return engine_pb2.EngineLoad(
        running_requests=load.running_requests,
        waiting_requests=load.waiting_requests,
        kv_cache_percent=load.kv_cache_percent,
        prompt_tokens=load.prompt_tokens,
        generated_tokens=load.generated_tokens,
        requests=load.requests,
        first_token_seconds=load.first_token_s,
        first_tokens=load.first_tokens,
        counts_tokens=load.counts_tokens,
        counts_requests=load.counts_requests,
    )


def _artifact(message: pb.ModelArtifact) -> Artifact:
    files = (
        ArtifactFile(each.path, each.size_bytes, each.sha256, each.chunk_bytes, each.chunk_sha256s, each.object)
        for each in message.files
    )
    return Artifact(message.url, tuple(files))


def _options(message: pb.WorkloadSpec) -> EngineOptions:
    asked = message.engine_options
    return EngineOptions(
        context_tokens=message.context_tokens,
        max_concurrency=message.max_concurrency,
        tool_parser=asked.tool_parser,
        max_adapters=asked.max_adapters,
        extra=dict(asked.extra),
    )


def _facts_to_proto(facts: EngineFacts) -> pb.EngineFacts:
    return pb.EngineFacts(
        inference_path=facts.inference_path,
        unsupported_fields=[
            pb.UnsupportedField(path=each.path, harmless_values=each.harmless_values)
            for each in facts.unsupported_fields
        ],
        private_paths=facts.private_paths,
        grpc_port=facts.grpc_port,
        single_use_connections=facts.single_use_connections,
    )
