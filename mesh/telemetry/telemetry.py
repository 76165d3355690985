"""Starts and ends the telemetry of one process."""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

import psutil
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry, start_http_server

from mesh.settings import Observability
from mesh.telemetry.durations import Durations
from mesh.telemetry.messages import MessageTelemetry
from mesh.telemetry.readers import Collected, PushedReader, ScrapedReader
from mesh.telemetry.rpc import RpcTelemetry

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

log = logging.getLogger(__name__)

EXPORT_TIMEOUT_S = 3
METRICS_INTERVAL_MS = 15_000
# Spans wait for the collector in a queue of this size; past it the oldest are dropped.
SPAN_QUEUE = 2048
SPAN_DELAY_MS = 500


class Telemetry:
    """The instruments of one process. `metrics_port` is where /metrics is served, 0 when it is not."""

    def __init__(
        self,
        meters: MeterProvider,
        traces: TracerProvider | None,
        durations: _ProcessDurations,
        scrapes: _Scrapes | None,
    ) -> None:
        self._meters = meters
        self._traces = traces
        self._scrapes = scrapes
        tracer: Tracer | None = traces.get_tracer("aiops") if traces is not None else None
        self.meter: Meter = meters.get_meter("aiops")
        self.tracer = tracer
        self.rpc = RpcTelemetry(durations.rpc, tracer)
        self.messages = MessageTelemetry(tracer)
        self.metrics_port = scrapes.port if scrapes is not None else 0
        self._sql_durations = durations.sql
        _watch_process(self.meter)

    def watch_engine(self, engine: AsyncEngine) -> None:
        """Measures every statement of the engine."""
        # Only a service with a database pays for SQLAlchemy, which is 20 MB.
        from mesh.telemetry.sql import SqlTelemetry

        SqlTelemetry(self._sql_durations, self.tracer).watch(engine)

    def shutdown(self) -> None:
        """Sends what is waiting, for at most a few seconds, and stops serving. Blocks for that time."""
        if self._scrapes is not None:
            self._scrapes.stop()
        # The SDK's own limit is 30 s a signal, one after the other; a collector that is away must not hold up the end.
        endings = [self._meters.shutdown] if self._traces is None else [self._traces.shutdown, self._meters.shutdown]
        threads = [Thread(target=ending, daemon=True) for ending in endings]
        for thread in threads:
            thread.start()
        limit = time.monotonic() + EXPORT_TIMEOUT_S
        for thread in threads:
            thread.join(max(0.0, limit - time.monotonic()))


def start_telemetry(service_name: str, settings: Observability) -> Telemetry:
    """Starts measuring, as the settings say."""
    resource = Resource({"service.name": service_name, "service.instance.id": f"{os.uname().nodename}:{os.getpid()}"})
    durations = _ProcessDurations()
    collected = Collected(resource, (durations.rpc, durations.sql))
    registry = CollectorRegistry()
    readers: list[MetricReader] = [ScrapedReader(registry, collected)]
    traces = None
    if settings.otlp_endpoint and _can_push():
        readers.append(_pushed_metrics(settings.otlp_endpoint, collected))
        traces = _traces(settings.otlp_endpoint, resource)
    meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
    scrapes = (
        None if settings.metrics_port is None else _Scrapes(settings.metrics_host, settings.metrics_port, registry)
    )
    return Telemetry(meters, traces, durations, scrapes)


class _ProcessDurations:
    def __init__(self) -> None:
        self.rpc = Durations(
            "rpc.server.call.duration", "How long calls took to serve.", ("rpc.method", "rpc.response.status_code")
        )
        self.sql = Durations(
            "db.client.operation.duration", "How long statements took.", ("db.operation.name", "outcome")
        )


class _Scrapes:
    """The /metrics server, in a thread of its own."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        server: WSGIServer
        thread: Thread
        server, thread = start_http_server(port, addr=host, registry=registry)
        self._server, self._thread = server, thread
        self.port = int(server.server_port)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(EXPORT_TIMEOUT_S)


def _can_push() -> bool:
    """Whether the exporter loads. xds-protos installs old copies of its messages over them when it comes last."""
    try:
        importlib.import_module("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")
    except ImportError as error:
        log.error("nothing is sent to the collector (%s); reinstall the package opentelemetry-proto", error)
        return False
    return True


def _traces(endpoint: str, resource: Resource) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S)
    provider.add_span_processor(
        BatchSpanProcessor(exporter, max_queue_size=SPAN_QUEUE, schedule_delay_millis=SPAN_DELAY_MS)
    )
    return provider


def _pushed_metrics(endpoint: str, collected: Collected) -> PushedReader:
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    exporter = OTLPMetricExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S)
    return PushedReader(exporter, collected, interval_ms=METRICS_INTERVAL_MS, timeout_ms=EXPORT_TIMEOUT_S * 1000)


def _watch_process(meter: Meter) -> None:
    process = psutil.Process()
    started = time.monotonic()

    def resident(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(process.memory_info().rss)

    def processor(_: CallbackOptions) -> Iterable[Observation]:
        used = process.cpu_times()
        yield Observation(used.user + used.system)

    def descriptors(_: CallbackOptions) -> Iterable[Observation]:
        with suppress(psutil.Error):
            yield Observation(process.num_fds())

    def uptime(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(time.monotonic() - started)

    meter.create_observable_gauge("process.memory.usage", [resident], unit="By", description="Resident memory.")
    meter.create_observable_counter("process.cpu.time", [processor], unit="s", description="Processor time used.")
    meter.create_observable_gauge(
        "process.open_file_descriptor.count", [descriptors], description="Open file descriptors."
    )
    meter.create_observable_gauge("process.uptime", [uptime], unit="s", description="Time since the start.")
