"""How many requests a deployment answered, and how fast."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from controller.deployments.model import DeploymentId


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests of a deployment since it was made; milliseconds."""

    requests: int = 0
    duration_ms: float = 0.0
    last_request_at: datetime | None = None

    @property
    def avg_latency_ms(self) -> float:
        """The mean over the requests; 0 without one."""
        return self.duration_ms / self.requests if self.requests else 0.0


NONE = Traffic()


class TrafficStore(Protocol):
    """Where the sums are kept."""

    async def of(self, ids: Collection[DeploymentId]) -> Mapping[DeploymentId, Traffic]: ...
