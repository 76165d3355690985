"""Nodes and what runs on them as rows: pure, and quick, for heartbeats read and write them by the thousand."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import datetime
from functools import cache
from typing import Any

from controller.nodes.devices import GpuDevice
from controller.nodes.model import Container, EngineLoad, Gauges, Node, NodeConfig, NodeId, NodeRole, NodeStatus, Tunnel
from controller.nodes.runtimes import NO_RUNTIMES, Runtimes
from mesh.identity import OrgId, UserId


def node_of(row: Mapping[Any, Any]) -> Node:
    """The node that a row says."""
    return Node(
        node_id=NodeId(row["node_id"]),
        org_id=OrgId(row["org_id"]),
        user_id=UserId(row["user_id"]),
        role=tuple(NodeRole(each) for each in row["role"]),
        status=NodeStatus(row["status"]),
        config=NodeConfig(row["controller_endpoint"], row["working_directory"]),
        runtimes=tuple(row["runtimes"]),
        engines=tuple(row["engines"]),
        gauges=Gauges(
            gpu_devices=tuple([GpuDevice(**_known(GpuDevice, each)) for each in row["gpu_devices"]]),
            runtimes=_runtimes(row["runtime_report"]) if row["runtime_report"] else NO_RUNTIMES,
            tunnel=Tunnel(**_known(Tunnel, row["tunnel"])) if row["tunnel"] else None,
            **{name: row[name] for name in _NUMBERS},
        ),
        **{name: row[name] for name in _PLAIN},
    )


def _runtimes(report: Mapping[str, Any]) -> Runtimes:
    known = _known(Runtimes, report)
    return Runtimes(**{**known, "names": tuple(known["names"])})


def row_of(node: Node) -> dict[str, Any]:
    """The row of a node."""
    return {
        "node_id": node.node_id,
        "org_id": node.org_id,
        "user_id": node.user_id,
        "role": [each.value for each in node.role],
        "status": node.status.value,
        "controller_endpoint": node.config.controller_endpoint,
        "working_directory": node.config.working_directory,
        "runtimes": list(node.runtimes),
        "engines": list(node.engines),
        **gauges_row(node.gauges),
        **{name: getattr(node, name) for name in _PLAIN},
    }


def gauges_row(gauges: Gauges) -> dict[str, Any]:
    """What moves of a node's row; the columns are GAUGES."""
    return {
        "gpu_devices": [_device_row(each) for each in gauges.gpu_devices],
        "runtime_report": {name: getattr(gauges.runtimes, name) for name in _RUNTIMES},
        "tunnel": asdict(gauges.tunnel) if gauges.tunnel else None,
        **{name: getattr(gauges, name) for name in _NUMBERS},
    }


def _device_row(device: GpuDevice) -> dict[str, Any]:
    """What is not as it is everywhere: most devices are written in a third of the space."""
    values = ((name, getattr(device, name)) for name in _DEVICE)
    return {name: value for name, value in values if value}


# Copying by hand takes a tenth of `asdict`.
_DEVICE = tuple(each.name for each in fields(GpuDevice))
_RUNTIMES = tuple(each.name for each in fields(Runtimes))
_NUMBERS = tuple(each.name for each in fields(Gauges) if each.name not in {"gpu_devices", "tunnel", "runtimes"})
GAUGES = ("gpu_devices", "runtime_report", "tunnel", *_NUMBERS)
_CONVERTED = {"node_id", "org_id", "user_id", "role", "status", "runtimes", "engines", "config", "gauges"}
_PLAIN = tuple(each.name for each in fields(Node) if each.name not in _CONVERTED)


def container_row(node_id: NodeId, org_id: OrgId, key: str, container: Container, now: datetime) -> dict[str, Any]:
    """The row of what runs on a node under a key."""
    started_at = container.started_at
    return {
        "node_id": node_id,
        "container_id": key,
        "org_id": org_id,
        "created_at": started_at or now,
        "content": {**asdict(container), "started_at": started_at.isoformat() if started_at else None},
    }


def container_of(row: Mapping[str, Any]) -> Container:
    """What runs on a node, as its row's content says."""
    load = row.get("engine_load")
    started_at = row.get("started_at")
    known = {
        **_known(Container, row),
        "engine_load": EngineLoad(**_known(EngineLoad, load)) if load else None,
        "started_at": datetime.fromisoformat(started_at) if started_at else None,
    }
    return Container(**known)


def _known(model: type, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What of a JSON row this version knows; another version may have written it."""
    names = _names_of(model)
    if row.keys() <= names:
        return row
    return {name: value for name, value in row.items() if name in names}


@cache
def _names_of(model: type) -> frozenset[str]:
    return frozenset(each.name for each in fields(model))
