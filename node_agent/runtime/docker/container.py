"""A container as the Engine is asked for it, and as the Engine describes it."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docker import APIClient
from docker.types import DeviceRequest, LogConfig, Mount

from node_agent.runtime.model import Containment, Ended, Instance, Launch

OWNER, MARK, LOG = "io.aiops.owner", "io.aiops.mark", "io.aiops.log"
RUNTIME = "docker"
_MIB = 1024 * 1024
_SHARED_MEMORY_MB = 1024
_TEMPORARY_MB = 1024
# What the Engine keeps of a log that no agent reads; the agent keeps the rest.
_LOG_OPTIONS = {"max-size": "16m", "max-file": "2"}
_HEALTH_INTERVAL_NS = 30 * 10**9
_HEALTH_TIMEOUT_NS = 10 * 10**9
_LAST_SIGNAL = 64
# Whatever the image has to ask with; one that has nothing is not judged by its container's health.
_ASK = (
    "if command -v curl >/dev/null; then curl -fsS -o /dev/null {url}; "
    "elif command -v wget >/dev/null; then wget -q -O /dev/null {url}; "
    "elif command -v python3 >/dev/null; then "
    "python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=8)' {url}; fi"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What every container of the node is held to. `user` is `uid:gid`, never root; `cpus` 0 = all there are."""

    user: str
    cpus: int = 0
    pids: int = 4096


def creation(client: APIClient, owner: str, launch: Launch, limits: Limits, has_health: bool) -> dict[str, Any]:
    """The arguments of `create_container`.

    Nobody in the container is root or becomes it, nothing but its own directories can be written, and the Engine's own
    seccomp profile stays on, since nothing here turns it off.
    """
    box = launch.containment
    assert box is not None
    arguments: dict[str, Any] = {
        "image": box.image,
        "name": box.name,
        "environment": dict(launch.environment),
        "labels": {**box.labels, OWNER: owner, MARK: launch.mark, LOG: str(launch.log)},
        "user": limits.user,
        "working_dir": str(launch.directory) if launch.argv else None,
        "ports": [(port, "tcp") for port in box.ports],
        "host_config": client.create_host_config(**_host_config(box, limits)),
    }
    if launch.argv:
        arguments |= {"entrypoint": list(launch.argv[:1]), "command": list(launch.argv[1:])}
    if box.health_url and not has_health:
        arguments["healthcheck"] = {
            "test": ["CMD-SHELL", _ASK.format(url=shlex.quote(box.health_url))],
            "interval": _HEALTH_INTERVAL_NS,
            "timeout": _HEALTH_TIMEOUT_NS,
        }
    return arguments


def _host_config(box: Containment, limits: Limits) -> dict[str, Any]:
    memory = box.memory_mb * _MIB or _machine_bytes()
    cpus = limits.cpus or os.cpu_count() or 1
    mounts = [Mount(str(path), str(path), type="bind", read_only=True) for path in box.readable]
    mounts += [Mount(str(path), str(path), type="bind") for path in box.writable]
    devices = [DeviceRequest(device_ids=list(box.gpus), capabilities=[["gpu"]])] if box.gpus else None
    return {
        "mounts": mounts,
        "port_bindings": {f"{port}/tcp": (box.address, port) for port in box.ports},
        "read_only": True,
        "tmpfs": {"/tmp": f"rw,nosuid,nodev,size={_TEMPORARY_MB}m,mode=1777"},  # noqa: S108 - inside the container
        "shm_size": _SHARED_MEMORY_MB * _MIB,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "privileged": False,
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": cpus * 10**9,
        "pids_limit": limits.pids,
        "device_requests": devices,
        "init": True,
        "restart_policy": {"Name": "no"},
        "log_config": LogConfig(type=LogConfig.types.JSON, config=_LOG_OPTIONS),
        "network_mode": "bridge",
    }


def instance_of(inspected: Mapping[str, Any]) -> Instance:
    """The instance; its birth is when the container was made, which nothing changes."""
    return Instance(inspected["Id"], inspected["State"]["Pid"], inspected["Created"], RUNTIME)


def runs(inspected: Mapping[str, Any]) -> bool:
    """Whether something runs in it."""
    return bool(inspected["State"]["Running"])


def end_of(inspected: Mapping[str, Any], *, starved: bool) -> Ended:
    """How it ended; `starved` when the Engine has told that the kernel killed something in it for memory.

    A shell's 128 + n is a signal's again: `docker-init` passes on what its child ended with. A child killed for memory
    often takes its parent with it, which then ends with an error of its own.
    """
    state = inspected["State"]
    code = int(state["ExitCode"])
    out_of_memory = bool(state["OOMKilled"]) or (starved and code != 0)
    limit = int(inspected["HostConfig"].get("Memory") or 0) // _MIB
    return Ended(
        code=128 - code if 128 < code <= 128 + _LAST_SIGNAL else code,
        out_of_memory=out_of_memory,
        memory_limit_mb=limit if out_of_memory else 0,
    )


def _machine_bytes() -> int:
    """All the machine's memory: without a limit of its own a container is still held to one."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
