"""What the rpc kernel reports: one call on the server's side, and the trace context on the client's."""

from collections.abc import Mapping
from time import perf_counter

import grpc
from opentelemetry.context import attach
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from mesh.telemetry.context import TRACEPARENT, context_of
from mesh.telemetry.durations import Durations

# Codes that are the server's fault, by OpenTelemetry's conventions for RPC spans.
SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


class RpcCall:
    """A call that is being served."""

    __slots__ = ("_durations", "_method", "_span", "_started")

    def __init__(self, durations: Durations, method: str, span: Span | None) -> None:
        self._durations = durations
        self._method = method
        self._span = span
        self._started = perf_counter()

    def finish(self, code: grpc.StatusCode) -> None:
        """Records the call's end. To be called once."""
        self._durations.record((self._method, code.name), perf_counter() - self._started)
        if self._span is None:
            return
        self._span.set_attribute("rpc.response.status_code", code.name)
        if code in SERVER_FAULTS:
            self._span.set_status(Status(StatusCode.ERROR, code.name))
        self._span.end()


class RpcTelemetry:
    """Metrics of every call, and its span where a collector is set."""

    def __init__(self, durations: Durations, tracer: Tracer | None) -> None:
        self._durations = durations
        self._tracer = tracer

    def start(self, method: str, metadata: Mapping[str, str]) -> RpcCall:
        """Begins a call of `method` (`/package.Service/Method`); to be called in the task that serves it.

        The caller's trace context becomes the task's, so that rows, events and further calls carry it on. It is not
        taken off again: a call's task ends with the call.
        """
        traceparent = metadata.get(TRACEPARENT, "")
        if self._tracer is not None:
            parent = context_of(traceparent)
            span = self._tracer.start_span(
                method.lstrip("/"), context=parent, kind=SpanKind.SERVER, attributes=_attributes(method)
            )
            attach(set_span_in_context(span, parent))
            return RpcCall(self._durations, method, span)
        if traceparent:
            attach(context_of(traceparent))
        return RpcCall(self._durations, method, None)


def _attributes(method: str) -> dict[str, str]:
    return {"rpc.system.name": "grpc", "rpc.method": method.lstrip("/")}
