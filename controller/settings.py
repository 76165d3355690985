"""The controller's settings, read once from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """What the controller needs to know. Every field's variable is in docs/settings.md."""

    home: Path
    database_url: str = field(repr=False)
    database_pool: int
    kafka: str
    storage_url: str
    pki: Path
    api_address: str
    mesh_address: str
    join_address: str
    # What nodes are told to dial; the listening addresses when empty.
    public_mesh_address: str
    public_join_url: str
    admin_password: str = field(repr=False)
    # How long a key signs tokens before a new one does.
    signing_key_age: timedelta
    metrics_port: int
    otlp_endpoint: str
    log_level: str
    lease: timedelta
    heartbeat: timedelta


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings in the environment. Raises ValueError naming the variable that is missing or wrong."""
    home = Path(environment.get("AIOPS_HOME", ".aiops")).absolute()
    return Settings(
        home=home,
        database_url=_required(environment, "AIOPS_DATABASE_URL"),
        database_pool=_whole(environment, "AIOPS_DATABASE_POOL", 8),
        kafka=environment.get("AIOPS_KAFKA", "127.0.0.1:9092"),
        storage_url=environment.get("AIOPS_STORAGE_URL", f"file://{home}/objects"),
        pki=Path(environment.get("AIOPS_PKI", str(home / "pki"))),
        api_address=environment.get("AIOPS_CONTROLLER_API", "127.0.0.1:7080"),
        mesh_address=environment.get("AIOPS_CONTROLLER_MESH", "127.0.0.1:7081"),
        join_address=environment.get("AIOPS_CONTROLLER_JOIN", "127.0.0.1:7082"),
        public_mesh_address=environment.get("AIOPS_PUBLIC_MESH_ADDRESS", ""),
        public_join_url=environment.get("AIOPS_PUBLIC_JOIN_URL", ""),
        admin_password=environment.get("AIOPS_ADMIN_PASSWORD", ""),
        signing_key_age=timedelta(days=_whole(environment, "AIOPS_SIGNING_KEY_DAYS", 90)),
        metrics_port=_whole(environment, "AIOPS_METRICS_PORT", 0),
        otlp_endpoint=environment.get("AIOPS_OTLP_ENDPOINT", ""),
        log_level=environment.get("AIOPS_LOG_LEVEL", "INFO"),
        lease=timedelta(seconds=_whole(environment, "AIOPS_NODE_LEASE_SECONDS", 15)),
        heartbeat=timedelta(seconds=_whole(environment, "AIOPS_NODE_HEARTBEAT_SECONDS", 5)),
    )


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise ValueError(f"{name} is not set; the controller cannot start without it")
    return value


def _whole(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name, "")
    try:
        return int(value) if value else default
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}, which is no whole number") from error
