"""Deployments as rows, and rows as deployments."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from controller.deployments.model import (
    Deployment,
    DeploymentId,
    DeploymentStatus,
    InstanceId,
    Observation,
)
from controller.deployments.workload import (
    Adapter,
    AdapterReport,
    EngineOptions,
    Goal,
    HealthStatus,
    Program,
    UnsupportedField,
)
from controller.models.model import ModelId
from controller.nodes.model import NodeId
from controller.placement.model import Options
from mesh.identity import OrgId, UserId


def deployment_of(row: Row[Any]) -> Deployment:
    """The deployment that a row says, whatever else the row has."""
    return Deployment(
        deployment_id=DeploymentId(row.deployment_id),
        instance_id=InstanceId(row.instance_id),
        org_id=OrgId(row.org_id),
        user_id=UserId(row.user_id),
        model_id=ModelId(row.model_id),
        node_id=NodeId(row.node_id),
        gpu_devices=tuple(row.gpu_devices),
        requested_devices=tuple(row.requested_devices),
        failed_on=tuple(NodeId(each) for each in row.failed_on),
        goal=Goal(row.goal),
        status=DeploymentStatus(row.status),
        observed=_observation(row.observed),
        options=options_of(row.options),
        engine_options=EngineOptions(**row.engine_options),
        program=Program.read(row.program),
        adapters=tuple(map(Adapter.read, row.adapters)),
        **{name: row._mapping[name] for name in _PLAIN},
    )


def row_of(deployment: Deployment) -> dict[str, Any]:
    """The row that says the deployment."""
    return {
        **{name: getattr(deployment, name) for name in (*_PLAIN, *_IDS)},
        "gpu_devices": list(deployment.gpu_devices),
        "requested_devices": list(deployment.requested_devices),
        "failed_on": list(deployment.failed_on),
        "goal": deployment.goal.value,
        "status": deployment.status.value,
        "observed": _observation_row(deployment.observed),
        "options": asdict(deployment.options),
        "engine_options": asdict(deployment.engine_options),
        "program": asdict(deployment.program),
        "adapters": [asdict(each) for each in deployment.adapters],
    }


_IDS = ("deployment_id", "instance_id", "org_id", "user_id", "model_id", "node_id")
_CONVERTED = (
    *("gpu_devices", "requested_devices", "goal", "status", "observed"),
    *("options", "engine_options", "adapters", "program", "failed_on"),
)
_PLAIN = tuple(each.name for each in fields(Deployment) if each.name not in _IDS and each.name not in _CONVERTED)
_MOMENTS = ("started_at", "measured_at", "told_at", "next_attempt_at")


def _observation_row(observed: Observation) -> dict[str, Any]:
    moments = {name: getattr(observed, name) for name in _MOMENTS}
    return {
        **asdict(observed),
        "health_status": observed.health_status.value,
        **{name: value.isoformat() if value else None for name, value in moments.items()},
    }


def _observation(row: Mapping[str, Any]) -> Observation:
    # Another version may have written fields that this one does not know.
    known = {each.name: row[each.name] for each in fields(Observation) if each.name in row}
    unsupported = (UnsupportedField(each["path"], tuple(each["harmless_values"])) for each in row["unsupported_fields"])
    known["health_status"] = HealthStatus(row["health_status"])
    known["unsupported_fields"] = tuple(unsupported)
    known["private_paths"] = tuple(row.get("private_paths", ()))
    known["adapters"] = tuple(AdapterReport(**each) for each in row.get("adapters", ()))
    for name in _MOMENTS:
        known[name] = datetime.fromisoformat(row[name]) if row.get(name) else None
    return Observation(**known)


def options_of(row: Mapping[str, Any]) -> Options:
    """The options that a JSON column says."""
    # Another version may have written fields that this one does not know; pairs come back as lists.
    known = {each.name: row[each.name] for each in fields(Options) if each.name in row}
    for name in ("required_labels", "forbidden_labels"):
        known[name] = tuple((label, value) for label, value in known.get(name, ()))
    return Options(**known)
