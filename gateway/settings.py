"""The gateway's settings, read once from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from mesh.settings import Observability, observability, whole

# Where sockets are served, unless said otherwise.
REALTIME = "127.0.0.1:7087"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the gateway needs to know. Addresses are `host:port` or `unix:path`."""

    bind: str
    port: int
    xds: str
    controller_api: str
    controller_mesh: str
    controller_join: str
    router_mesh: str
    # Where the processes with the sockets listen, separated by commas.
    realtime: str
    pki: Path
    observability: Observability
    # PEM files that Envoy reads; without them the port speaks plain text.
    tls_certificate: str
    tls_key: str
    cors_origins: tuple[str, ...]
    # Where nodes dial; port 0 is none.
    node_bind: str
    node_port: int
    model_idle: timedelta
    linger: timedelta
    # Where Envoy brings requests for models that sleep; port 0 takes a free one.
    waiting_room: str
    # host:port of the gateway's own HTTP server, which Envoy asks; port 0 takes a free one.
    web: str
    kafka: str
    # Where Envoy, on the same machine, writes what requests used, and how much of it may wait for Kafka.
    usage_directory: Path
    usage_most_bytes: int


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings in the environment. Raises ValueError naming the variable that is wrong."""
    home = Path(environment.get("AIOPS_HOME", ".aiops")).absolute()
    return Settings(
        bind=environment.get("AIOPS_BIND", "127.0.0.1"),
        port=whole(environment, "AIOPS_PORT", 8080),
        xds=environment.get("AIOPS_XDS", "127.0.0.1:7084"),
        controller_api=environment.get("AIOPS_CONTROLLER_API", "127.0.0.1:7080"),
        controller_mesh=environment.get("AIOPS_CONTROLLER_MESH", "127.0.0.1:7081"),
        controller_join=environment.get("AIOPS_CONTROLLER_JOIN", "127.0.0.1:7082"),
        router_mesh=environment.get("AIOPS_ROUTER_MESH", "127.0.0.1:7083"),
        realtime=environment.get("AIOPS_REALTIME", REALTIME),
        pki=Path(environment.get("AIOPS_PKI", str(home / "pki"))),
        observability=observability(environment),
        tls_certificate=environment.get("AIOPS_TLS_CERTIFICATE", ""),
        tls_key=environment.get("AIOPS_TLS_KEY", ""),
        cors_origins=tuple(filter(None, environment.get("AIOPS_CORS_ORIGINS", "*").split(","))),
        node_bind=environment.get("AIOPS_NODE_BIND") or environment.get("AIOPS_BIND", "127.0.0.1"),
        node_port=whole(environment, "AIOPS_NODE_PORT", 0),
        model_idle=timedelta(seconds=whole(environment, "AIOPS_MODEL_IDLE_SECONDS", 600)),
        linger=timedelta(seconds=whole(environment, "AIOPS_ROUTE_LINGER_SECONDS", 30)),
        web=environment.get("AIOPS_WEB", "127.0.0.1:0"),
        waiting_room=environment.get("AIOPS_WAITING_ROOM", "127.0.0.1:0"),
        kafka=environment.get("AIOPS_KAFKA", "127.0.0.1:9092"),
        usage_directory=Path(environment.get("AIOPS_USAGE_DIRECTORY") or home / "usage"),
        usage_most_bytes=whole(environment, "AIOPS_USAGE_JOURNAL_MB", 4096) * 1024 * 1024,
    )


@dataclass(frozen=True, slots=True)
class RealtimeSettings:
    """What the process with the sockets needs to know."""

    # Where it listens, `host:port`; behind Envoy, in plain text.
    listen: str
    controller_api: str
    controller_mesh: str
    kafka: str
    pki: Path
    observability: Observability


def read_realtime(environment: Mapping[str, str] = os.environ) -> RealtimeSettings:
    """The settings in the environment. Raises ValueError naming the variable that is wrong."""
    home = Path(environment.get("AIOPS_HOME", ".aiops")).absolute()
    return RealtimeSettings(
        listen=environment.get("AIOPS_REALTIME_LISTEN", REALTIME),
        controller_api=environment.get("AIOPS_CONTROLLER_API", "127.0.0.1:7080"),
        controller_mesh=environment.get("AIOPS_CONTROLLER_MESH", "127.0.0.1:7081"),
        kafka=environment.get("AIOPS_KAFKA", "127.0.0.1:9092"),
        pki=Path(environment.get("AIOPS_PKI", str(home / "pki"))),
        observability=observability(environment),
    )
