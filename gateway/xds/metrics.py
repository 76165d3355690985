"""What is counted about Envoys."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.metrics import Meter


class Metrics:
    """Streams, pushes and refusals."""

    def __init__(self, meter: Meter) -> None:
        self._streams = meter.create_up_down_counter("gateway.envoys", description="Connected Envoys.")
        self._pushes = meter.create_counter("gateway.pushes", description="Configuration sent to Envoys.")
        self._refusals = meter.create_counter("gateway.refusals", description="Configuration that Envoys refused.")

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Counts a stream while it lasts."""
        self._streams.add(1)
        try:
            yield
        finally:
            self._streams.add(-1)

    def pushed(self, kind: str) -> None:
        """Counts one response."""
        self._pushes.add(1, {"type": _short(kind)})

    def refused(self, kind: str) -> None:
        """Counts one refusal."""
        self._refusals.add(1, {"type": _short(kind)})


def _short(kind: str) -> str:
    return kind.rpartition(".")[2]
