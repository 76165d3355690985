"""Events of nodes as the contract has them."""

from typing import Any

from aiops.nodes.v1 import node_events_pb2 as pb

from controller.events import Encoding, Encodings
from controller.nodes.convert import config_to_proto
from controller.nodes.events import (
    CommandAcknowledged,
    ContainerChanged,
    DeploymentProgressed,
    FleetGuardChanged,
    NodeCameOnline,
    NodeDisconnected,
    NodeMaintenanceChanged,
    NodeReadingTaken,
    NodeRegistered,
    NodeRemoved,
    NodeWentOffline,
    WorkloadAssigned,
    WorkloadEnded,
)
from mesh.clock import unix_ms

TOPIC = "aiops.nodes.v1"


def _registered(event: NodeRegistered) -> pb.NodeRegister:
    node = event.node
    return pb.NodeRegister(
        type="system.node.register",
        node_id=node.node_id,
        name=node.name,
        is_local=node.is_local,
        gpu_devices=[
            pb.NodeRegister.Device(device_id=each.device_id, model=each.model, memory_total=each.memory_total)
            for each in node.gauges.gpu_devices
        ],
        config=config_to_proto(node.config),
        timestamp=unix_ms(event.at),
    )


def _reading_taken(event: NodeReadingTaken) -> pb.NodeHeartbeat:
    gauges = event.gauges
    return pb.NodeHeartbeat(
        type="system.node.heartbeat",
        node_id=event.node_id,
        timestamp=unix_ms(event.at),
        metrics=pb.NodeHeartbeat.Metrics(
            gpu_devices=[
                pb.NodeHeartbeat.Device(
                    device_id=each.device_id,
                    memory_free=each.memory_free,
                    utilization=each.utilization,
                    temperature=each.temperature,
                )
                for each in gauges.gpu_devices
            ],
            ram_free=gauges.ram_free,
            disk_free=gauges.disk_free,
        ),
    )


def _disconnected(event: NodeDisconnected) -> pb.NodeDisconnect:
    return pb.NodeDisconnect(
        type="system.node.disconnect", node_id=event.node_id, reason=event.cause, timestamp=unix_ms(event.at)
    )


def _came_online(event: NodeCameOnline) -> pb.NodeOnline:
    return pb.NodeOnline(
        type="system.node.online",
        node_id=event.node.node_id,
        node_name=event.node.name,
        gpu_count=len(event.node.gauges.gpu_devices),
        timestamp=unix_ms(event.at),
    )


def _went_offline(event: NodeWentOffline) -> pb.NodeOffline:
    seen = event.node.last_heartbeat
    return pb.NodeOffline(
        type="system.node.offline",
        node_id=event.node.node_id,
        reason=event.cause,
        last_seen=unix_ms(seen) if seen else 0.0,
        timestamp=unix_ms(event.at),
    )


def _guard_changed(event: FleetGuardChanged) -> pb.FleetGuard:
    guard = event.guard
    return pb.FleetGuard(
        type="system.fleet.guard",
        held=guard is not None,
        silent=guard.silent if guard else 0,
        leased=guard.leased if guard else 0,
        timestamp=unix_ms(event.at),
    )


def _maintenance_changed(event: NodeMaintenanceChanged) -> pb.NodeMaintenance:
    return pb.NodeMaintenance(
        type="system.node.maintenance",
        node_id=event.node_id,
        maintenance=event.maintenance,
        timestamp=unix_ms(event.at),
    )


def _removed(event: NodeRemoved) -> pb.NodeRemoved:
    return pb.NodeRemoved(
        type="system.node.removed",
        node_id=event.node_id,
        removed_by=event.removed_by,
        timestamp=unix_ms(event.at),
    )


def _assigned(event: WorkloadAssigned) -> pb.NodeDeployModel:
    return pb.NodeDeployModel(
        type="system.node.deployModel",
        request_id=event.request_id,
        node_id=event.node_id,
        job_id=event.job_id,
        model_id=event.model_id,
        framework=event.framework,
        container_config=pb.NodeDeployModel.ContainerConfig(
            image=event.image,
            gpu_device=event.gpu_device,
            memory_limit=event.memory_limit,
            ports=event.ports,
            environment=event.environment,
        ),
        model_path=event.model_path,
    )


def _ended(event: WorkloadEnded) -> pb.NodeStopContainer:
    return pb.NodeStopContainer(
        type="system.node.stopContainer",
        request_id=event.request_id,
        node_id=event.node_id,
        container_id=event.container_id,
    )


def _acknowledged(event: CommandAcknowledged) -> pb.NodeCommandAck:
    return pb.NodeCommandAck(
        type="system.node.commandAck",
        request_id=event.request_id,
        node_id=event.node_id,
        status=event.status,
        reason=event.cause,
        timestamp=unix_ms(event.at),
    )


def _progressed(event: DeploymentProgressed) -> pb.NodeDeploymentProgress:
    return pb.NodeDeploymentProgress(
        type="system.node.deploymentProgress",
        request_id=event.request_id,
        job_id=event.job_id,
        status=event.status,
        progress=event.progress,
        container_id=event.container_id,
        error=event.error,
        timestamp=unix_ms(event.at),
        node_id=event.node_id,
        deployment_id=event.deployment_id,
        detail=event.detail,
    )


def _container_changed(event: ContainerChanged) -> pb.NodeContainerEvent:
    return pb.NodeContainerEvent(
        type="system.node.containerEvent",
        node_id=event.node_id,
        container_id=event.container_id,
        event=event.event,
        exit_code=event.exit_code,
        error=event.error,
        timestamp=unix_ms(event.at),
    )


def _of_node(event: Any) -> str:
    return str(event.node.node_id)


def _by_node_id(event: Any) -> str:
    return str(event.node_id)


EVENTS: Encodings = {
    NodeRegistered: Encoding("system.node.register", TOPIC, _of_node, _registered),
    NodeReadingTaken: Encoding("system.node.heartbeat", TOPIC, _by_node_id, _reading_taken),
    NodeDisconnected: Encoding("system.node.disconnect", TOPIC, _by_node_id, _disconnected),
    NodeCameOnline: Encoding("system.node.online", TOPIC, _of_node, _came_online),
    NodeWentOffline: Encoding("system.node.offline", TOPIC, _of_node, _went_offline),
    NodeMaintenanceChanged: Encoding("system.node.maintenance", TOPIC, _by_node_id, _maintenance_changed),
    NodeRemoved: Encoding("system.node.removed", TOPIC, _by_node_id, _removed),
    WorkloadAssigned: Encoding("system.node.deployModel", TOPIC, _by_node_id, _assigned),
    WorkloadEnded: Encoding("system.node.stopContainer", TOPIC, _by_node_id, _ended),
    CommandAcknowledged: Encoding("system.node.commandAck", TOPIC, _by_node_id, _acknowledged),
    DeploymentProgressed: Encoding("system.node.deploymentProgress", TOPIC, _by_node_id, _progressed),
    ContainerChanged: Encoding("system.node.containerEvent", TOPIC, _by_node_id, _container_changed),
}
# What is about all nodes together.
FLEET_EVENTS: Encodings = {
    FleetGuardChanged: Encoding("system.fleet.guard", TOPIC, lambda _: "fleet", _guard_changed),
}
