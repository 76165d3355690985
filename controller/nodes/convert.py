"""Nodes as protobuf messages, and back."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime

from aiops.nodes.v1 import node_pb2 as pb
from aiops.nodes.v1 import node_service_pb2 as service_pb
from aiops.types.v1 import engine_pb2, owner_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from controller.nodes.devices import GpuDevice
from controller.nodes.drain import Leaving, is_empty
from controller.nodes.model import Container, Node, NodeChanges, NodeConfig, NodeRole, NodeStatus, Tunnel
from controller.nodes.service import Registration
from mesh.errors import FieldViolation, InvalidRequestError

_ROLES = {
    NodeRole.CONTROLLER: pb.Node.controller,
    NodeRole.WORKER: pb.Node.worker,
    NodeRole.PROXY: pb.Node.proxy,
    NodeRole.STORAGE: pb.Node.storage,
}
_STATUSES = {
    NodeStatus.ONLINE: pb.Node.online,
    NodeStatus.OFFLINE: pb.Node.offline,
    NodeStatus.MAINTENANCE: pb.Node.maintenance,
}
_ROLES_READ = {number: role for role, number in _ROLES.items()}
_STATUSES_READ = {number: status for status, number in _STATUSES.items()}
# Where a path of the update mask finds its value.
_PATHS = {
    "name": ("name",),
    "role": ("role",),
    "vpn_ip": ("vpn_ip",),
    "labels": ("labels",),
    "config": ("controller_endpoint", "working_directory"),
    "config.controller_endpoint": ("controller_endpoint",),
    "config.working_directory": ("working_directory",),
}
_FIELDS = {each.name for each in fields(NodeChanges)}


def node_to_proto(node: Node) -> pb.Node:
    """A node with its latest gauges."""
    gauges = node.gauges
    return pb.Node(
        node_id=node.node_id,
        name=node.name,
        role=[_ROLES[each] for each in node.role],
        status=_STATUSES[node.status],
        is_local=node.is_local,
        vpn_ip=node.address,
        draining=node.draining,
        websocket_connected=node.websocket_connected,
        last_heartbeat=optional_timestamp(node.last_heartbeat),
        gpu_devices=[gpu_to_proto(each) for each in gauges.gpu_devices],
        cpu_cores=node.cpu_cores,
        ram_total=gauges.ram_total,
        ram_free=gauges.ram_free,
        disk_total=gauges.disk_total,
        disk_free=gauges.disk_free,
        config=config_to_proto(node.config),
        owner=owner_pb2.Owner(org_id=node.org_id, user_id=node.user_id),
        created_at=timestamp(node.created_at),
        changed_at=timestamp(node.changed_at),
        deleted_at=optional_timestamp(node.deleted_at),
        is_deleted=node.deleted_at is not None,
        runtimes=gauges.runtimes.names or node.runtimes,
        runtime_trouble=gauges.runtimes.trouble,
        images=gauges.runtimes.images,
        engines=node.engines,
        agent_version=node.agent_version,
        labels=node.labels,
        tunnel=tunnel_to_proto(gauges.tunnel) if gauges.tunnel else None,
    )


def drain_to_proto(node: Node, left: Sequence[Leaving]) -> service_pb.DrainNodeResponse:
    """How far a node is emptied."""
    return service_pb.DrainNodeResponse(
        node=node_to_proto(node),
        drained=is_empty(left),
        left=[
            service_pb.LeavingDeployment(
                deployment_id=each.deployment_id, status=each.status, pinned=each.pinned, reason=each.reason
            )
            for each in left
        ],
    )


def metrics_to_proto(node: Node) -> pb.NodeMetrics:
    """The latest gauges of a node."""
    gauges = node.gauges
    return pb.NodeMetrics(
        node_id=node.node_id,
        gpu_devices=[gpu_to_proto(each) for each in gauges.gpu_devices],
        cpu_utilization=gauges.cpu_utilization,
        ram_total=gauges.ram_total,
        ram_free=gauges.ram_free,
        disk_free=gauges.disk_free,
        disk_total=gauges.disk_total,
        measured_at=optional_timestamp(gauges.measured_at),
    )


def gpu_to_proto(device: GpuDevice) -> pb.GpuDevice:
    """A GPU."""
    return pb.GpuDevice(
        device_id=device.device_id,
        model=device.model,
        memory_total=device.memory_total,
        memory_free=device.memory_free,
        utilization=device.utilization,
        temperature=device.temperature,
        uuid=device.uuid,
        error=device.error,
        parent_device_id=device.parent_device_id,
        mig_profile=device.mig_profile,
        mig=device.mig,
        exclusive=device.exclusive,
        mps=device.mps,
    )


def tunnel_to_proto(tunnel: Tunnel) -> pb.Tunnel:
    """A node's connections to the gateway."""
    return pb.Tunnel(
        state=tunnel.state,
        version=tunnel.version,
        error=tunnel.error,
        connections=tunnel.connections,
        gateway_address=tunnel.gateway_address,
    )


def config_to_proto(config: NodeConfig) -> pb.NodeConfig:
    """Where the agent connects and works."""
    return pb.NodeConfig(controller_endpoint=config.controller_endpoint, working_directory=config.working_directory)


def container_to_proto(container: Container) -> pb.Container:
    """A workload as its node last described it."""
    return pb.Container(
        container_id=container.container_id,
        container_name=container.container_name,
        image=container.image,
        runtime=container.runtime,
        workload_id=container.workload_id,
        replica=container.replica,
        epoch=container.epoch,
        status=container.status,
        port=container.port,
        pid=container.pid,
        memory_mb=container.memory_mb,
        gpu_memory_mb=container.gpu_memory_mb,
        cpu_percent=container.cpu_percent,
        restarts=container.restarts,
        started_at=optional_timestamp(container.started_at),
        engine_load=engine_pb2.EngineLoad(**asdict(container.engine_load)) if container.engine_load else None,
    )


def status_from_proto(status: "pb.Node.Status.ValueType") -> NodeStatus | None:
    """The status to filter by; None for every one."""
    return _STATUSES_READ.get(status)


def roles_from_proto(roles: "Iterable[pb.Node.Role.ValueType]") -> tuple[NodeRole, ...]:
    """The roles; the contract lets no unspecified one through."""
    return tuple(_ROLES_READ[each] for each in roles)


def registration_from_proto(request: service_pb.RegisterNodeRequest) -> Registration:
    """What a registration asks for."""
    return Registration(
        name=request.name,
        role=roles_from_proto(request.role),
        is_local=request.is_local,
        vpn_ip=request.vpn_ip,
        config=NodeConfig(request.config.controller_endpoint, request.config.working_directory),
        labels=dict(sorted(request.labels.items())),
    )


def changes_from_proto(request: service_pb.UpdateNodeRequest) -> NodeChanges:
    """What an update asks for: the fields of the mask, or every field that is set without one (`*` is all of them).

    InvalidRequestError for a path that names no field that can be changed.
    """
    node = request.node
    given = NodeChanges(
        name=node.name,
        role=roles_from_proto(node.role),
        vpn_ip=node.vpn_ip,
        controller_endpoint=node.config.controller_endpoint,
        working_directory=node.config.working_directory,
        labels=dict(node.labels),
    )
    paths = request.update_mask.paths
    chosen = _chosen(paths) if paths else {name for name in _FIELDS if getattr(given, name)}
    return replace(given, **dict.fromkeys(_FIELDS - chosen))


def timestamp(moment: datetime) -> Timestamp:
    """A point in time."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def optional_timestamp(moment: datetime | None) -> Timestamp | None:
    """A point in time, if there is one."""
    return None if moment is None else timestamp(moment)


def _chosen(paths: Iterable[str]) -> set[str]:
    known = [path for path in paths if path in _PATHS or path == "*"]
    unknown = [path for path in paths if path not in known]
    if unknown:
        raise InvalidRequestError(
            *(FieldViolation("update_mask", f"there is no field to change at `{path}`") for path in unknown)
        )
    expanded = _PATHS if "*" in known else known
    return {name for path in expanded for name in _PATHS[path]}
