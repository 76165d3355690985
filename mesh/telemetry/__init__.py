"""Metrics and traces of a service: always on /metrics, and over OTLP where a collector is set."""

from mesh.telemetry.context import current_traceparent
from mesh.telemetry.durations import Durations
from mesh.telemetry.rpc import RpcCall, RpcTelemetry
from mesh.telemetry.telemetry import Telemetry, start_telemetry

__all__ = ["Durations", "RpcCall", "RpcTelemetry", "Telemetry", "current_traceparent", "start_telemetry"]
