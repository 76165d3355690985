"""What can run workloads on a node: processes always, containers while its Docker Engine is there."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Runtimes:
    """What works now; `trouble` is why one that should does not. `images` hold engines, by engine."""

    names: tuple[str, ...] = ()
    trouble: str = ""
    images: Mapping[str, str] = field(default_factory=dict)

    @property
    def runs_containers(self) -> bool:
        """Whether its Docker Engine was there when the node last spoke."""
        return "docker" in self.names

    def image_of(self, engine: str) -> str:
        """The image that the node's settings name for an engine; empty where the engine runs as a process."""
        return self.images.get(engine, "")


NO_RUNTIMES = Runtimes()
