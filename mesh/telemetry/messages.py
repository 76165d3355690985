"""Spans of what goes to Kafka and comes from it."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanKind, Tracer, use_span

from mesh.telemetry.context import context_of, traceparent_of


class MessageTelemetry:
    """Carries the trace context over a broker."""

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer

    @contextmanager
    def publishing(self, topic: str, traceparent: str) -> Iterator[str]:
        """A record on its way out. Gives the `traceparent` to send with it."""
        if self._tracer is None:
            yield traceparent
            return
        attributes = {
            "messaging.system": "kafka",
            "messaging.destination.name": topic,
            "messaging.operation.name": "publish",
        }
        parent = context_of(traceparent)
        span = self._tracer.start_span(
            f"publish {topic}", context=parent, kind=SpanKind.PRODUCER, attributes=attributes
        )
        with use_span(span, end_on_exit=True):
            yield traceparent_of(span)

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
