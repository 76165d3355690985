"""GPUs through NVML, where a call can fail for one device alone, or hang when the driver does.

Source: NVIDIA Management Library API reference. Each device is read by a thread of its own: one that hangs keeps only
its own thread, and is listed with what is known of it and the reason. The slices of a card that is cut up (Multi-
Instance GPU) are listed behind it as devices `CARD:SLICE` with their own memory.
"""

import asyncio
import ctypes
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from node_agent.inventory.model import Gpu, Gpus
from node_agent.inventory.worker import StuckError, Worker

LIBRARY = "libnvidia-ml.so.1"
# Where the control daemon of the Multi-Process Service listens unless it is told otherwise.
MPS_PIPES = Path("/tmp/nvidia-mps")  # noqa: S108 - NVIDIA's own place for it
# Compute modes that let one process alone, or one thread of one, use a card.
_ALONE = (1, 3)
_MIB = 1024 * 1024


class Nvml:
    """Reads all GPUs, in bounded time whatever the driver does."""

    def __init__(self, timeout_s: float = 2.0, mps: Path = MPS_PIPES) -> None:
        self._timeout_s = timeout_s
        self._mps = mps
        self._driver = Worker("NVML")
        self._devices: dict[int, Worker] = {}
        self._known: dict[int, tuple[Gpu, ...]] = {}
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
        cards = await asyncio.gather(*(self._read(each) for each in range(count)))
        return Gpus(tuple(gpu for card in cards for gpu in card), self._version)

    async def _read(self, index: int) -> tuple[Gpu, ...]:
        """A card, and its slices behind it."""
        if index not in self._devices:
            self._devices[index] = Worker(f"GPU {index}")
        try:
            gpus = await self._devices[index].run(lambda: self._device(index), self._timeout_s)
        except StuckError as error:
            gpus = (Gpu(str(index), error=str(error)),)
        if gpus[0].error:
            return _lost(self._known.get(index, gpus), gpus[0].error)
        self._known[index] = gpus
        return gpus

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

    def _device(self, index: int) -> tuple[Gpu, ...]:
        """The device, or why it cannot be read: one bad device must not hide the others."""
        nvml = self._library
        if nvml is None:
            return (Gpu(str(index), error="NVML was unloaded"),)
        try:
            card = replace(_device(nvml, index), mps=(self._mps / "control").exists())
            return (card, *_slices(nvml, card)) if card.mig else (card,)
        except nvml.NVMLError as error:
            return (Gpu(str(index), error=str(error)),)

    def _unreadable(self, error: str) -> Gpus:
        known = [gpu for _, card in sorted(self._known.items()) for gpu in _lost(card, error)]
        return Gpus(tuple(known), self._version, error)


def _lost(gpus: Iterable[Gpu], error: str) -> tuple[Gpu, ...]:
    return tuple(replace(gpu, memory_free=0, error=error) for gpu in gpus)


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
        mig=_gauge(nvml, lambda: nvml.nvmlDeviceGetMigMode(handle)[0]) == nvml.NVML_DEVICE_MIG_ENABLE,
        exclusive=_gauge(nvml, lambda: nvml.nvmlDeviceGetComputeMode(handle)) in _ALONE,
        processes=_processes(nvml, handle),
    )


def _slices(nvml: ModuleType, card: Gpu) -> Iterator[Gpu]:
    """The slices of a card. Instances are numbered with gaps where none was made."""
    handle = nvml.nvmlDeviceGetHandleByIndex(int(card.device_id))
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except nvml.NVMLError_NotFound:
            continue
        memory, name = nvml.nvmlDeviceGetMemoryInfo(mig), str(nvml.nvmlDeviceGetName(mig))
        yield Gpu(
            device_id=f"{card.device_id}:{number}",
            model=name,
            memory_total=memory.total // _MIB,
            memory_free=memory.free // _MIB,
            uuid=str(nvml.nvmlDeviceGetUUID(mig)),
            parent_device_id=card.device_id,
            processes=_processes(nvml, mig),
            # The name of a slice ends with its profile: "NVIDIA A100-SXM4-40GB MIG 1g.5gb".
            mig_profile=name.rpartition(" MIG ")[2],
        )


def _processes(nvml: ModuleType, handle: object) -> tuple[tuple[int, int], ...]:
    """Who computes on a device. Older drivers, and some that are shared by virtual machines, do not say."""
    try:
        found = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound, nvml.NVMLError_NoPermission):
        return ()
    return tuple((int(each.pid), int(each.usedGpuMemory or 0) // _MIB) for each in found)


def _gauge(nvml: ModuleType, read: Callable[[], int]) -> int:
    """A gauge that some devices, such as slices of a card, do not have."""
    try:
        return read()
    except nvml.NVMLError_NotSupported:
        return 0
