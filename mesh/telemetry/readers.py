"""Who reads the metrics: Prometheus by scraping, a collector by OTLP; both see the instruments and the durations."""

from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry

from mesh.telemetry.durations import Durations

SCOPE = InstrumentationScope("aiops.durations")


class Collected:
    """The durations of a process, as an addition to what the SDK collects."""

    def __init__(self, resource: Resource, durations: Sequence[Durations]) -> None:
        self._resource = resource
        self._durations = durations

    def added_to(self, data: MetricsData) -> MetricsData:
        """The same data and the durations, as one more scope of the process's own resource."""
        scope = ScopeMetrics(SCOPE, [each.metric() for each in self._durations], "")
        scopes = [known for each in data.resource_metrics for known in each.scope_metrics]
        return MetricsData([ResourceMetrics(self._resource, [*scopes, scope], "")])


class ScrapedReader(PrometheusMetricReader):
    """Answers scrapes through a Prometheus registry."""

    def __init__(self, registry: CollectorRegistry, collected: Collected) -> None:
        super().__init__(registry=registry, scope_info_enabled=False)
        self._collected = collected

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: Any) -> None:
        super()._receive_metrics(self._collected.added_to(metrics_data), timeout_millis, **options)


class PushedReader(PeriodicExportingMetricReader):
    """Pushes through an exporter every so often."""

    def __init__(
        self, exporter: MetricExporter, collected: Collected, *, interval_ms: float, timeout_ms: float
    ) -> None:
        self._collected = collected
        super().__init__(exporter, export_interval_millis=interval_ms, export_timeout_millis=timeout_ms)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: Any) -> None:
        super()._receive_metrics(self._collected.added_to(metrics_data), timeout_millis, **options)
