"""What a workload needs in order to run in a container: its image, its engine's words from inside, and its bounds."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from node_agent.engines.engine import LaunchPlan, Probe
from node_agent.inventory.model import Gpu
from node_agent.runtime.model import Containment
from node_agent.workloads.model import WorkloadSpec

# Inside, an engine listens on every address of the container, of which the agent publishes one outside.
INSIDE = "0.0.0.0"  # noqa: S104
# What the placement claims is an estimate; a workload is ended only when it takes so much more.
_SLACK = 1.25
_NAMES = {"USER": "aiops", "LOGNAME": "aiops"}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Who runs in the node's containers."""

    uid: int
    gid: int

    @property
    def user(self) -> str:
        """As the Engine names it."""
        return f"{self.uid}:{self.gid}"


def seen_from_outside(plan: LaunchPlan, host: str) -> LaunchPlan:
    """The plan of an engine that listens on INSIDE, probed at the address where its port is published."""
    return replace(plan, health=_at(plan.health, host), ready=_at(plan.ready, host), env={**_NAMES, **plan.env})


def devices_inside(spec: WorkloadSpec) -> tuple[str, ...]:
    """How the workload's cards are numbered where it sees no others."""
    return tuple(str(number) for number in range(len(spec.gpu_devices)))


def contain(
    spec: WorkloadSpec,
    plan: LaunchPlan,
    host: str,
    ports: tuple[int, ...],
    model_dir: Path,
    run_dir: Path,
    gpus: Mapping[str, Gpu],
) -> Containment:
    """The container of a workload. Of RAM it has what was claimed and a little more; of a card's, as ever, all."""
    cards = [gpus[device].uuid or device if device in gpus else device for device in spec.gpu_devices]
    health = urlsplit(plan.health.url)
    return Containment(
        image=spec.image,
        name=spec.container_name,
        address=host,
        labels={
            "io.aiops.workload": spec.key.workload_id,
            "io.aiops.replica": str(spec.key.replica),
            "io.aiops.epoch": str(spec.epoch),
        },
        ports=ports,
        readable=(model_dir,),
        writable=(run_dir,),
        memory_mb=0 if spec.gpu_devices else int(spec.memory_limit_mb * _SLACK),
        gpus=tuple(cards),
        health_url=urlunsplit(health._replace(netloc=f"127.0.0.1:{health.port}")),
    )


def hand_over(directory: Path, bounds: Bounds) -> None:
    """Gives the directory to who runs in the container. Raises OSError."""
    if os.geteuid() != 0:
        return  # then it is the agent's own user who runs there
    os.chown(directory, bounds.uid, bounds.gid)
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            os.lchown(Path(folder) / name, bounds.uid, bounds.gid)


def _at(probe: Probe, host: str) -> Probe:
    url = urlsplit(probe.url)
    outside = f"[{host}]" if ":" in host else host
    return replace(probe, url=urlunsplit(url._replace(netloc=f"{outside}:{url.port}")))
