"""A histogram of seconds cheap enough for every request; the readers merge it into what OpenTelemetry collects."""

import time
from bisect import bisect_left
from collections.abc import Sequence

from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, HistogramDataPoint, Metric

DEFAULT_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MOST_SERIES = 500
OVERFLOW = "other"


class _Series:
    """One combination of labels."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.total = 0.0


class Durations:
    """How long things took, by label values.

    OpenTelemetry's own instrument costs ten times as much a record, which a control plane notices. Records come from
    one thread; a reader on another may miss the newest. Past `MOST_SERIES` combinations the rest count as `other`.
    """

    def __init__(
        self, name: str, description: str, labels: Sequence[str], bounds: Sequence[float] = DEFAULT_BOUNDS_S
    ) -> None:
        self._name = name
        self._description = description
        self._labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._started_ns = time.time_ns()
        self._series: dict[tuple[str, ...], _Series] = {}

    def record(self, values: tuple[str, ...], seconds: float) -> None:
        """Counts one duration under these label values, in the order of `labels`."""
        series = self._series.get(values)
        if series is None:
            series = self._open(values)
        series.counts[bisect_left(self._bounds, seconds)] += 1
        series.total += seconds

    def metric(self) -> Metric:
        """Everything recorded so far, in OpenTelemetry's data model."""
        now = time.time_ns()
        points = [self._point(values, series, now) for values, series in list(self._series.items())]
        return Metric(self._name, self._description, "s", Histogram(points, AggregationTemporality.CUMULATIVE))

    def _open(self, values: tuple[str, ...]) -> _Series:
        key = values if len(self._series) < MOST_SERIES else (OVERFLOW,) * len(self._labels)
        return self._series.setdefault(key, _Series(len(self._bounds) + 1))

    def _point(self, values: tuple[str, ...], series: _Series, now: int) -> HistogramDataPoint:
        counts = list(series.counts)
        highest = self._bounds[-1]
        return HistogramDataPoint(
            attributes=dict(zip(self._labels, values, strict=True)),
            start_time_unix_nano=self._started_ns,
            time_unix_nano=now,
            count=sum(counts),
            sum=series.total,
            bucket_counts=counts,
            explicit_bounds=self._bounds,
            min=0.0,
            max=highest,
        )
