"""Which deployments found no place of late, and when each is tried again."""

from collections.abc import Collection

from controller.deployments.model import DeploymentId
from mesh.clock import Clock
from mesh.loops import Backoff


class Retries:
    """What one loop remembers between its looks; a loop that begins anew tries everything at once."""

    def __init__(self, patience: Backoff, clock: Clock) -> None:
        self._patience, self._clock = patience, clock
        # How often each was refused, and when it is tried again.
        self._known: dict[DeploymentId, tuple[int, float]] = {}

    def due(self, wanting: Collection[DeploymentId]) -> list[DeploymentId]:
        """Those of all that want a place whose time has come; what wants none any more is forgotten."""
        self._known = {each: known for each, known in self._known.items() if each in wanting}
        now = self._clock.monotonic()
        return [each for each in wanting if self._known.get(each, (0, now))[1] <= now]

    def add(self, deployment_id: DeploymentId) -> None:
        """It was refused a place once more."""
        failures = self._known.get(deployment_id, (0, 0.0))[0] + 1
        self._known[deployment_id] = failures, self._clock.monotonic() + self._patience.pause(failures).total_seconds()

    def forget(self) -> None:
        """The fleet has changed: everything may be tried at once."""
        self._known.clear()
