"""What agents say and hear as protobuf messages. An agent's texts and numbers are cut to what the database holds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from aiops.nodes.v1 import node_pb2
from aiops.nodes.v1 import node_session_service_pb2 as pb
from aiops.types.v1 import engine_pb2

from controller.deployments.workload import (
    AdapterReport,
    ArtifactFile,
    DesiredChange,
    DesiredWorkload,
    Goal,
    HealthStatus,
    UnsupportedField,
    WorkloadReport,
    WorkloadState,
)
from controller.distribution.model import Peer
from controller.models.model import ModelId
from controller.nodes.convert import timestamp
from controller.nodes.devices import GpuDevice
from controller.nodes.liveness import LivenessRules
from controller.nodes.model import (
    Container,
    EngineLoad,
    Gauges,
    Greeting,
    LogPage,
    NodeId,
    Tunnel,
    check_host,
)
from controller.nodes.runtimes import Runtimes
from controller.nodes.standing import Standing
from controller.sessions.model import Acknowledgement, Decision, Hello, LogRequest, Opened, Reading
from mesh.errors import FieldViolation, InvalidRequestError

LONGEST_TEXT = 1024
LONGEST_LOG_TAIL = 8 * 1024
MOST_DEVICES = 64
MOST_CONTAINERS = 1024
MOST_NAMES = 32
LONGEST_PAUSE_S = 86_400.0
_LARGEST = 2**63 - 1
_MOST_CORES = _MOST_CONNECTIONS = 65_535

_STATES = {
    pb.WorkloadStatus.downloading: WorkloadState.DOWNLOADING,
    pb.WorkloadStatus.extracting: WorkloadState.EXTRACTING,
    pb.WorkloadStatus.starting: WorkloadState.STARTING,
    pb.WorkloadStatus.running: WorkloadState.RUNNING,
    pb.WorkloadStatus.failed: WorkloadState.FAILED,
    pb.WorkloadStatus.stopped: WorkloadState.STOPPED,
}
_GOALS = {Goal.RUN: pb.WorkloadSpec.run, Goal.END: pb.WorkloadSpec.end}
_HEALTH = {each.value: each for each in HealthStatus}
_ENDINGS = ("stopped", "died", "oom")
_EVENTS = ("started", *_ENDINGS)


def hello_from_proto(message: pb.Hello) -> Hello:
    """How an agent introduces itself. InvalidRequestError for an address that could not be dialled."""
    address = _text(message.address)
    check_host("hello.address", address)
    inventory = message.inventory
    greeting = Greeting(
        boot_id=_text(message.boot_id),
        agent_version=_text(message.agent_version),
        agent_address=address,
        cpu_cores=min(inventory.cpu_cores, _MOST_CORES),
        runtimes=_names(message.runtimes),
        engines=_names(message.engines),
        driver_version=_text(inventory.driver_version),
        gpu_error=_text(inventory.gpu_error),
        gauges=Gauges(
            gpu_devices=_devices(inventory.gpu_devices),
            ram_total=inventory.ram_total,
            ram_free=inventory.ram_free,
            disk_total=inventory.disk_total,
            disk_free=inventory.disk_free,
            tunnel=_tunnel(message),
            runtimes=_runtimes(message),
        ),
    )
    node_id = NodeId(message.node_id)
    workloads = message.workloads[:MOST_CONTAINERS]
    reports = tuple(report_from_proto(node_id, 0, each) for each in workloads)
    return Hello(node_id, greeting, reports, peer_address_from_proto("hello", message.peer_address))


def peer_address_from_proto(field: str, address: str) -> str:
    """Where a node offers files; empty when it does not. InvalidRequestError for one that could not be dialled."""
    host, colon, port = address.rpartition(":")
    if address and not (colon and port.isdigit() and 0 < int(port) < 65_536):
        raise InvalidRequestError(FieldViolation(f"{field}.peer_address", "must be host:port"))
    check_host(f"{field}.peer_address", host.strip("[]"))
    return address


def peers_to_proto(model_id: ModelId, peers: Sequence[Peer]) -> pb.ConnectResponse:
    """Who else has a model's files."""
    shown = [pb.Peer(node_id=each.node_id, address=each.address) for each in peers]
    return pb.ConnectResponse(peers=pb.Peers(model_id=model_id, peers=shown))


def reading_from_proto(message: pb.Heartbeat) -> Reading:
    """What a heartbeat carries."""
    metrics = message.metrics
    return Reading(
        session_epoch=message.session_epoch,
        gauges=Gauges(
            gpu_devices=_devices(metrics.gpu_devices),
            cpu_utilization=_number(metrics.cpu_utilization),
            ram_total=metrics.ram_total,
            ram_free=metrics.ram_free,
            disk_total=metrics.disk_total,
            disk_free=metrics.disk_free,
            tunnel=_tunnel(message),
            runtimes=_runtimes(message),
        ),
        containers=tuple(_container(each) for each in message.containers[:MOST_CONTAINERS]),
        applied_revision=_count(message.applied_revision),
    )


def report_from_proto(node_id: NodeId, session_epoch: int, message: pb.WorkloadStatus) -> WorkloadReport:
    """What a node says of one workload. InvalidRequestError for a state that the contract does not have."""
    state = _STATES.get(message.state)
    if state is None:
        raise InvalidRequestError(FieldViolation("workload_status.state", "must be one of the states"))
    event = message.event if message.event in _EVENTS else ""
    return WorkloadReport(
        node_id=node_id,
        workload_id=_text(message.workload_id),
        epoch=_count(message.epoch),
        state=state,
        session_epoch=session_epoch,
        replica=message.replica,
        progress=min(message.progress, 100),
        container_id=_text(message.container_id),
        runtime=_text(message.runtime),
        engine=_text(message.engine),
        port=message.port,
        error=_text(message.error),
        error_reason=_text(message.error_reason),
        log_tail=_clean(message.log_tail)[-LONGEST_LOG_TAIL:],
        health=_HEALTH.get(message.health, HealthStatus.UNKNOWN),
        inference_path=_text(message.facts.inference_path),
        unsupported_fields=tuple(
            UnsupportedField(_text(each.path), _names(each.harmless_values))
            for each in message.facts.unsupported_fields
        ),
        private_paths=_names(message.facts.private_paths),
        grpc_port=message.facts.grpc_port,
        single_use_connections=message.facts.single_use_connections,
        container=_container(message.container) if message.HasField("container") else None,
        event=event,
        exit_code=message.exit_code if event in _ENDINGS else None,
        next_attempt_s=min(max(0.0, _number(message.next_attempt_seconds)), LONGEST_PAUSE_S),
        detail=_text(message.detail),
        revision=_count(message.revision),
        adapters=tuple(
            AdapterReport(_text(each.name), each.loaded, _text(each.error)) for each in message.adapters[:MOST_NAMES]
        ),
    )


def acknowledgement_from_proto(message: pb.CommandAck) -> Acknowledgement:
    """An agent's answer to a command; whatever is not accepted is rejected."""
    return Acknowledgement(
        request_id=_text(message.request_id),
        accepted=message.status == pb.CommandAck.accepted,
        cause=_text(message.reason),
    )


def log_page_from_proto(message: pb.LogPage) -> LogPage:
    """A piece of a log."""
    return LogPage(message.content, message.offset, message.next_offset, message.end, _text(message.error))


def log_page_to_proto(page: LogPage) -> pb.LogPage:
    """A piece of a log, for another controller."""
    return pb.LogPage(
        content=page.content, offset=page.offset, next_offset=page.next_offset, end=page.end, error=page.error
    )


def welcome_to_proto(opened: Opened, rules: LivenessRules) -> pb.ConnectResponse:
    """The first answer."""
    return pb.ConnectResponse(
        welcome=pb.Welcome(
            session_epoch=opened.session_epoch,
            lease_seconds=max(1, round(rules.lease.total_seconds())),
            heartbeat_seconds=max(1, round(rules.heartbeat.total_seconds())),
            desired_state=_desired(opened.desired),
            decisions=[_decision(each) for each in opened.decisions],
        )
    )


def desired_to_proto(change: DesiredChange) -> pb.ConnectResponse:
    """What the node is to run, or what changed of it."""
    return pb.ConnectResponse(desired_state=_desired(change))


def log_request_to_proto(request: LogRequest) -> pb.ConnectResponse:
    """A question for logs."""
    return pb.ConnectResponse(
        log_request=pb.LogRequest(
            request_id=request.request_id,
            workload_id=request.workload_id,
            offset=request.offset,
            limit_bytes=request.limit,
        )
    )


def heartbeat_ack_to_proto(node: Standing) -> pb.ConnectResponse:
    """The answer to a heartbeat."""
    lease = timestamp(node.lease_expires_at) if node.lease_expires_at else None
    return pb.ConnectResponse(heartbeat_ack=pb.HeartbeatAck(revision=node.desired_revision, lease_expires_at=lease))


def status_ack_to_proto(sequence: int) -> pb.ConnectResponse:
    """Every status up to `sequence` is stored."""
    return pb.ConnectResponse(status_ack=pb.StatusAck(sequence=sequence))


def _desired(change: DesiredChange) -> pb.DesiredState:
    return pb.DesiredState(
        revision=change.revision,
        snapshot=change.snapshot,
        base_revision=change.base_revision,
        workloads=[_workload(each) for each in change.workloads],
    )


def _workload(workload: DesiredWorkload) -> pb.WorkloadSpec:
    return pb.WorkloadSpec(
        workload_id=workload.workload_id,
        replica=workload.replica,
        epoch=workload.epoch,
        goal=_GOALS[workload.goal],
        container_name=workload.container_name,
        model_id=workload.model_id,
        served_name=workload.served_name,
        framework=workload.framework,
        task=workload.task,
        artifact=pb.ModelArtifact(url=workload.artifact_url, files=[_file(each) for each in workload.files]),
        port=workload.port,
        gpu_devices=workload.gpu_devices,
        memory_limit_mb=workload.memory_limit_mb,
        environment=workload.environment,
        command=workload.program.command,
        paths=pb.HttpPaths(health=workload.program.health, inference=workload.program.inference),
        image=workload.image,
        job_id=workload.job_id,
        request_id=workload.request_id,
        drain_seconds=workload.drain_seconds,
        context_tokens=workload.context_tokens,
        max_concurrency=workload.max_concurrency,
        engine_options=engine_pb2.EngineOptions(**asdict(workload.options)),
        adapters=[
            pb.WorkloadAdapter(
                name=each.name,
                artifact=pb.ModelArtifact(url=each.artifact_url, files=[_file(file) for file in each.files]),
            )
            for each in workload.adapters
        ],
    )


def _file(file: ArtifactFile) -> pb.ArtifactFile:
    return pb.ArtifactFile(
        path=file.path,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        chunk_bytes=file.chunk_bytes,
        chunk_sha256s=file.chunk_sha256s,
        object=file.object_path,
    )


def _decision(decision: Decision) -> pb.AdoptionDecision:
    return pb.AdoptionDecision(
        workload_id=decision.workload_id,
        replica=decision.replica,
        epoch=decision.epoch,
        decision=pb.AdoptionDecision.adopt if decision.adopt else pb.AdoptionDecision.stop,
        reason=decision.cause,
    )


def _runtimes(message: pb.Hello | pb.Heartbeat) -> Runtimes:
    said = message.runtime_report
    images = list(said.images.items())[:MOST_NAMES]
    return Runtimes(_names(said.names), _text(said.trouble), {_text(name): _text(image) for name, image in images})


def _tunnel(message: pb.Hello | pb.Heartbeat) -> Tunnel | None:
    if not message.HasField("tunnel"):
        return None
    said = message.tunnel
    return Tunnel(
        state=_text(said.state),
        version=_text(said.version),
        error=_text(said.error),
        connections=min(said.connections, _MOST_CONNECTIONS),
        gateway_address=_text(said.gateway_address),
    )


def _devices(messages: Sequence[node_pb2.GpuDevice]) -> tuple[GpuDevice, ...]:
    return tuple(
        GpuDevice(
            device_id=_text(each.device_id),
            model=_text(each.model),
            memory_total=each.memory_total,
            memory_free=each.memory_free,
            utilization=min(each.utilization, 100),
            temperature=each.temperature,
            uuid=_text(each.uuid),
            error=_text(each.error),
            parent_device_id=_text(each.parent_device_id),
            mig_profile=_text(each.mig_profile),
            mig=each.mig,
            exclusive=each.exclusive,
            mps=each.mps,
        )
        for each in messages[:MOST_DEVICES]
    )


def _container(message: node_pb2.Container) -> Container:
    return Container(
        container_id=_text(message.container_id),
        container_name=_text(message.container_name),
        image=_text(message.image),
        runtime=_text(message.runtime),
        workload_id=_text(message.workload_id),
        replica=message.replica,
        epoch=_count(message.epoch),
        status=_text(message.status),
        port=message.port,
        pid=message.pid,
        memory_mb=message.memory_mb,
        gpu_memory_mb=message.gpu_memory_mb,
        cpu_percent=_number(message.cpu_percent),
        restarts=message.restarts,
        started_at=_moment(message) if message.HasField("started_at") else None,
        engine_load=_load(message.engine_load) if message.HasField("engine_load") else None,
    )


def _load(message: engine_pb2.EngineLoad) -> EngineLoad:
    return EngineLoad(
        running_requests=message.running_requests,
        waiting_requests=message.waiting_requests,
        kv_cache_percent=_number(message.kv_cache_percent),
        prompt_tokens=_number(message.prompt_tokens),
        generated_tokens=_number(message.generated_tokens),
        requests=_number(message.requests),
        first_token_seconds=_number(message.first_token_seconds),
        first_tokens=_number(message.first_tokens),
        counts_tokens=message.counts_tokens,
        counts_requests=message.counts_requests,
    )


def _moment(message: node_pb2.Container) -> datetime | None:
    try:
        return message.started_at.ToDatetime(tzinfo=UTC)
    except ValueError:
        return None


def _names(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(_text(each) for each in list(texts)[:MOST_NAMES])


def _text(text: str) -> str:
    return _clean(text)[:LONGEST_TEXT]


def _clean(text: str) -> str:
    return text.replace("\x00", "")


def _count(number: int) -> int:
    return min(number, _LARGEST)


def _number(number: float) -> float:
    return number if math.isfinite(number) else 0.0
