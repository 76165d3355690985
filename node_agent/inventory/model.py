"""A machine's devices and gauges, as they were read."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its NVML index; megabytes, percent, degrees Celsius. `error` says why it could not be read."""

    device_id: str
    model: str = ""
    memory_total: int = 0
    memory_free: int = 0
    utilization: int = 0
    temperature: int = 0
    uuid: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Gpus:
    """All GPUs. `error` says why they could not be listed; without GPUs there are none and no error."""

    devices: tuple[Gpu, ...] = ()
    driver_version: str = ""
    error: str = ""


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
