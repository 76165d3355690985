"""Spans of what goes to Kafka and comes from it."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.context import attach, detach
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from mesh.telemetry.context import context_of, traceparent_of


class Publishing:
    """A record on its way out; `traceparent` is what to send with it."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, traceparent: str, span: Span | None = None) -> None:
        self.traceparent = traceparent
        self._span = span

    def finish(self, error: str = "") -> None:
        """The broker has it, or did not take it. To be called once."""
        if self._span is not None:
            if error:
                self._span.set_status(Status(StatusCode.ERROR, error))
            self._span.end()


class MessageTelemetry:
    """Carries the trace context over a broker."""

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer

    def start_publishing(self, topic: str, traceparent: str) -> Publishing:
        """A record of the trace that `traceparent` names is about to be published."""
        if self._tracer is None:
            return Publishing(traceparent)
        attributes = {
            "messaging.system": "kafka",
            "messaging.destination.name": topic,
            "messaging.operation.name": "publish",
        }
        span = self._tracer.start_span(
            f"publish {topic}", context=context_of(traceparent), kind=SpanKind.PRODUCER, attributes=attributes
        )
        return Publishing(traceparent_of(span), span)

    @contextmanager
    def consuming(self, topic: str, group: str, traceparent: str) -> Iterator[None]:
        """A record being handled: what it causes belongs to the trace it came with."""
        token = attach(context_of(traceparent))
        try:
            if self._tracer is None:
                yield
                return
            attributes = {
                "messaging.system": "kafka",
                "messaging.destination.name": topic,
                "messaging.consumer.group.name": group,
                "messaging.operation.name": "process",
            }
            with self._tracer.start_as_current_span(f"process {topic}", kind=SpanKind.CONSUMER, attributes=attributes):
                yield
        finally:
            detach(token)
