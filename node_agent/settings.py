"""The agent's settings, read once from the environment."""

import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from mesh.failpoints import Failpoint
from mesh.settings import Observability, failpoints, observability, whole
from node_agent.tunnel.choice import Way

DEFAULT_ADDRESS = "127.0.0.1"
_DOCKER = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """How containers run. An empty `url` means none; `expected` is whether Docker Engine's absence is worth a word.

    `images` are by engine. `cpus` 0 means all of them.
    """

    url: str = ""
    expected: bool = False
    images: Mapping[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    keep: timedelta = timedelta(days=7)
    # Whether a tag that is here already is looked up in its registry before each start.
    pull_always: bool = False
    uid: int = 10_001
    gid: int = 10_001
    cpus: int = 0
    pids: int = 4096


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How this agent works. An empty `session_address` means the one that joining gave; engines see `environment`."""

    home: Path
    name: str
    # What the gateway dials; empty when nobody said.
    address: str = ""
    session_address: str = ""
    keep_workloads: bool = True
    # By name of the engine.
    engines: Mapping[str, Path] = field(default_factory=dict)
    cache_mb: int = 0
    peers: bool = True
    peer_port: int = 0
    restart_limit: int = 5
    start_limit: timedelta = timedelta(hours=1)
    stop_grace: timedelta = timedelta(seconds=10)
    engine_wait: timedelta = timedelta(minutes=15)
    tunnel: Way = Way.AUTO
    # Where tunnels begin, host:port; empty means what joining gave.
    gateway_address: str = ""
    tunnel_connections: int = 8
    envoy: Path | None = None
    # Where the control daemon of NVIDIA's Multi-Process Service listens; empty means its usual place.
    mps_pipes: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    containers: ContainerSettings = field(default_factory=ContainerSettings)
    commands_allowed: tuple[str, ...] = ()
    observability: Observability = field(default_factory=Observability)
    failpoints: Mapping[str, Failpoint] = field(default_factory=dict)


def read_settings(environment: Mapping[str, str] = os.environ) -> AgentSettings:
    """The settings as `environment` has them. Raises ValueError naming the variable that is no number."""
    home = environment.get("AIOPS_NODE_HOME") or str(Path(environment.get("AIOPS_HOME", ".aiops")) / "node")
    envoy = environment.get("AIOPS_NODE_ENVOY", "")
    return AgentSettings(
        home=Path(home).absolute(),
        name=environment.get("AIOPS_NODE_NAME") or socket.gethostname(),
        address=environment.get("AIOPS_NODE_ADDRESS", ""),
        session_address=environment.get("AIOPS_CONTROLLER_MESH", ""),
        keep_workloads=environment.get("AIOPS_NODE_KEEP_WORKLOADS", "1") not in {"0", "false", "no"},
        engines=_engines(environment),
        cache_mb=whole(environment, "AIOPS_NODE_CACHE_MB", 0),
        peers=environment.get("AIOPS_NODE_PEERS", "1") not in {"0", "false", "no"},
        peer_port=whole(environment, "AIOPS_NODE_PEER_PORT", 0),
        restart_limit=whole(environment, "AIOPS_NODE_RESTART_LIMIT", 5),
        start_limit=timedelta(seconds=whole(environment, "AIOPS_NODE_START_LIMIT_S", 3600)),
        stop_grace=timedelta(seconds=whole(environment, "AIOPS_NODE_STOP_GRACE_S", 10)),
        engine_wait=timedelta(seconds=whole(environment, "AIOPS_NODE_ENGINE_WAIT_S", 900)),
        tunnel=_way(environment.get("AIOPS_NODE_TUNNEL") or Way.AUTO),
        gateway_address=environment.get("AIOPS_NODE_GATEWAY", ""),
        tunnel_connections=whole(environment, "AIOPS_NODE_TUNNEL_CONNECTIONS", 8),
        envoy=Path(envoy).absolute() if envoy else None,
        mps_pipes=environment.get("CUDA_MPS_PIPE_DIRECTORY", ""),
        environment=dict(environment),
        containers=_containers(environment),
        commands_allowed=_patterns(environment, "AIOPS_COMMANDS_ALLOWED"),
        observability=observability(environment),
        failpoints=failpoints(environment),
    )


def _engines(environment: Mapping[str, str]) -> dict[str, Path]:
    """The engines' executables: those that are named, and those on the path whose names are theirs alone."""
    path = environment.get("PATH", os.defpath)
    named = {
        "transformers": environment.get("AIOPS_ENGINE_TRANSFORMERS"),
        "vllm": environment.get("AIOPS_ENGINE_VLLM") or shutil.which("vllm", path=path),
        "triton": environment.get("AIOPS_ENGINE_TRITON") or shutil.which("tritonserver", path=path),
        "llamacpp": environment.get("AIOPS_ENGINE_LLAMACPP") or shutil.which("llama-server", path=path),
    }
    return {name: Path(executable).absolute() for name, executable in named.items() if executable}


def _way(text: str) -> Way:
    if text not in set(Way):
        raise ValueError(f"AIOPS_NODE_TUNNEL is {text!r}; it is one of {', '.join(Way)}")
    return Way(text)


def _containers(environment: Mapping[str, str]) -> ContainerSettings:
    named = environment.get("AIOPS_DOCKER_HOST") or environment.get("DOCKER_HOST", "")
    images = {
        "vllm": environment.get("AIOPS_IMAGE_VLLM", ""),
        "triton": environment.get("AIOPS_IMAGE_TRITON", ""),
        "llamacpp": environment.get("AIOPS_IMAGE_LLAMACPP", ""),
        "transformers": environment.get("AIOPS_IMAGE_TRANSFORMERS", ""),
    }
    uid = whole(environment, "AIOPS_CONTAINER_USER", 10_001)
    if uid == 0:
        raise ValueError("AIOPS_CONTAINER_USER is 0, but containers never run as root; give another user id")
    # An agent that is not root cannot hand directories to another user, so its containers run as itself.
    return ContainerSettings(
        url="" if named == "none" else named or _DOCKER,
        expected=bool(named),
        images={engine: image for engine, image in images.items() if image},
        allowed=_patterns(environment, "AIOPS_IMAGES_ALLOWED"),
        keep=timedelta(hours=whole(environment, "AIOPS_IMAGES_KEEP_HOURS", 168)),
        pull_always=_pulls_always(environment),
        uid=os.geteuid() or uid,
        gid=os.getegid() if os.geteuid() else uid,
        cpus=whole(environment, "AIOPS_CONTAINER_CPUS", 0),
        pids=whole(environment, "AIOPS_CONTAINER_PIDS", 4096),
    )


def _pulls_always(environment: Mapping[str, str]) -> bool:
    policy = environment.get("AIOPS_IMAGES_PULL", "if-absent")
    if policy not in ("always", "if-absent"):
        raise ValueError(f"AIOPS_IMAGES_PULL is {policy!r}; it is always or if-absent")
    return policy == "always"


def _patterns(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(pattern for pattern in map(str.strip, environment.get(name, "").split(",")) if pattern)
