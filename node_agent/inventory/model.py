"""A machine's devices and gauges, as they were read."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its NVML index, or a slice of one; megabytes, percent, degrees Celsius.

    `error` says why it could not be read. A card that is cut into MIG slices (`mig`) runs nothing itself; a slice names
    its card and its profile. `exclusive` lets one process alone use the card, unless MPS (`mps`) shares it.
    """

    device_id: str
    model: str = ""
    memory_total: int = 0
    memory_free: int = 0
    utilization: int = 0
    temperature: int = 0
    uuid: str = ""
    error: str = ""
    parent_device_id: str = ""
    mig_profile: str = ""
    mig: bool = False
    exclusive: bool = False
    mps: bool = False
    # Who computes on it: process ids of the machine, and megabytes of the device's memory.
    processes: tuple[tuple[int, int], ...] = ()

    @property
    def cuda_name(self) -> str:
        """What CUDA calls it: cards go by number, slices only by their UUID."""
        return self.uuid if self.mig_profile else self.device_id


@dataclass(frozen=True, slots=True)
class Gpus:
    """All GPUs. `error` says why they could not be listed; without GPUs there are none and no error."""

    devices: tuple[Gpu, ...] = ()
    driver_version: str = ""
    error: str = ""

    def most_held(self, pids: Collection[int]) -> int:
        """The megabytes that these processes have of the device of which they have the most."""
        return max((sum(mb for pid, mb in each.processes if pid in pids) for each in self.devices), default=0)


@dataclass(frozen=True, slots=True)
class Reading:
    """The whole machine at one moment; megabytes, percent over all cores."""

    gpus: Gpus
    cpu_cores: int
    cpu_utilization: float
    ram_total: int
    ram_free: int
    disk_total: int
    disk_free: int
    measured_at: datetime
