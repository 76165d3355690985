"""GPUs through NVML, where a call can fail for one device alone, or hang when the driver does.

Source: NVIDIA Management Library API reference. Each device is read by a thread of its own: one that hangs keeps only
its own thread, and is listed with what is known of it and the reason.
"""

import asyncio
import ctypes
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

from node_agent.inventory.model import Gpu, Gpus
from node_agent.inventory.worker import StuckError, Worker

LIBRARY = "libnvidia-ml.so.1"
_MIB = 1024 * 1024


class Nvml:
    """Reads all GPUs, in bounded time whatever the driver does."""

    def __init__(self, timeout_s: float = 2.0) -> None:
        self._timeout_s = timeout_s
        self._driver = Worker("NVML")
        self._devices: dict[int, Worker] = {}
        self._known: dict[int, Gpu] = {}
        self._library: ModuleType | None = None
        self._version = ""

    async def read(self) -> Gpus:
        """The GPUs now; a machine without NVML has none."""
        try:
            count = await self._driver.run(self._count, self._timeout_s)
        except StuckError as error:
            return self._unreadable(str(error))
        if isinstance(count, str):
            return self._unreadable(count)
        return Gpus(tuple(await asyncio.gather(*(self._read(each) for each in range(count)))), self._version)

    async def _read(self, index: int) -> Gpu:
        if index not in self._devices:
            self._devices[index] = Worker(f"GPU {index}")
        try:
            gpu = await self._devices[index].run(lambda: self._device(index), self._timeout_s)
        except StuckError as error:
            gpu = Gpu(str(index), error=str(error))
        if gpu.error:
            return replace(self._known.get(index, gpu), memory_free=0, error=gpu.error)
        self._known[index] = gpu
        return gpu

    def _count(self) -> int | str:
        """How many devices there are, or why nobody knows."""
        try:
            ctypes.CDLL(LIBRARY)  # the wrapper is large: it is not even imported where there is no driver
        except OSError:
            return 0
        import pynvml

        try:
            if self._library is None:
                pynvml.nvmlInit()
                self._version = str(pynvml.nvmlSystemGetDriverVersion())
                self._library = pynvml
            return int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError as error:
            self._library = None
            return str(error)

    def _device(self, index: int) -> Gpu:
        """The device, or why it cannot be read: one bad device must not hide the others."""
        nvml = self._library
        if nvml is None:
            return Gpu(str(index), error="NVML was unloaded")
        try:
            return _device(nvml, index)
        except nvml.NVMLError as error:
            return Gpu(str(index), error=str(error))

    def _unreadable(self, error: str) -> Gpus:
        known = tuple(replace(gpu, memory_free=0, error=error) for _, gpu in sorted(self._known.items()))
        return Gpus(known, self._version, error)


def _device(nvml: ModuleType, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        device_id=str(index),
        model=str(nvml.nvmlDeviceGetName(handle)),
        memory_total=memory.total // _MIB,
        memory_free=memory.free // _MIB,
        utilization=_gauge(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        temperature=_gauge(nvml, lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
    )


def _gauge(nvml: ModuleType, read: Callable[[], int]) -> int:
    """A gauge that some devices, such as slices of a card, do not have."""
    try:
        return read()
    except nvml.NVMLError_NotSupported:
        return 0
