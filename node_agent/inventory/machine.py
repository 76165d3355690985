"""The whole machine: GPUs by NVML, the rest by the operating system."""

from pathlib import Path

import psutil

from mesh.clock import Clock
from node_agent.inventory.model import Reading
from node_agent.inventory.nvml import Nvml

_MIB = 1024 * 1024


class Machine:
    """Reads this machine; `home` is where models are kept."""

    def __init__(self, home: Path, nvml: Nvml, clock: Clock) -> None:
        self._home, self._nvml, self._clock = home, nvml, clock
        psutil.cpu_percent()  # psutil measures from one call to the next; the first has nothing to compare

    async def read(self) -> Reading:
        """The machine now, in bounded time."""
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self._home))
        return Reading(
            gpus=await self._nvml.read(),
            cpu_cores=psutil.cpu_count() or 1,
            cpu_utilization=psutil.cpu_percent(),
            ram_total=memory.total // _MIB,
            ram_free=memory.available // _MIB,
            disk_total=disk.total // _MIB,
            disk_free=disk.free // _MIB,
            measured_at=self._clock.now(),
        )
