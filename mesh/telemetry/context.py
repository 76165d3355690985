"""The W3C trace context: how a request is followed from one process to the next."""

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"
_propagator = TraceContextTextMapPropagator()


def current_traceparent() -> str:
    """The `traceparent` of what runs now; empty when nobody follows it."""
    return traceparent_of(get_current_span())


def traceparent_of(span: Span) -> str:
    """The `traceparent` naming this span as the parent; empty for no span. Format: W3C Trace Context §3.2."""
    if span is INVALID_SPAN:
        return ""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}" if context.is_valid else ""


def context_of(traceparent: str) -> Context:
    """The context whose parent is the span that `traceparent` names; an empty or malformed one has no parent."""
    return _propagator.extract({TRACEPARENT: traceparent} if traceparent else {}, context=Context())
