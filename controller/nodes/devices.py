"""GPUs and slices of them, as nodes report them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A GPU, or a slice of one, as NVML reports it; sizes in megabytes.

    `error` is what NVML said when it could not be read. A card that is cut into slices (`mig`) runs nothing itself; a
    slice names its card and its profile, like "1g.10gb". `exclusive` lets one process alone use the card, unless MPS
    (`mps`) shares it between several.
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

    @property
    def capacity(self) -> tuple[object, ...]:
        """All but what changes with every reading and decides nothing."""
        return (
            *(self.device_id, self.memory_total, self.memory_free, self.error),
            *(self.parent_device_id, self.mig_profile, self.mig, self.exclusive, self.mps),
        )

    @property
    def usable(self) -> bool:
        """Whether an engine can be started on it."""
        return not self.error and not self.mig

    @property
    def single(self) -> bool:
        """Whether one engine alone may have it."""
        return bool(self.mig_profile) or (self.exclusive and not self.mps)
