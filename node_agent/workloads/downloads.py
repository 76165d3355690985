"""A workload's downloads as one: its image where that has to be pulled, then its model."""

from collections.abc import Callable

from node_agent.runtime.docker.pull import Arrival


class Downloads:
    """Tells the percent of both together, and in words how far the image is; an image that is pulled is half of it."""

    def __init__(self, tell: Callable[[int, str], None]) -> None:
        self._tell = tell
        self._first = 0
        self._seen = Arrival()
        tell(0, "")

    def image(self, arrival: Arrival) -> None:
        """The image is so far. The Engine counts kilobytes; what is told are percents, layers and troubles."""
        self._first = 50
        seen, self._seen = self._seen, arrival
        if (arrival.percent, arrival.layers, arrival.trouble) != (seen.percent, seen.layers, seen.trouble):
            self._tell(arrival.percent // 2, str(arrival))

    def model(self, percent: int) -> None:
        """The model is so far."""
        self._tell(self._first + percent * (100 - self._first) // 100, "")
