"""What the database is asked: how long statements take, and their spans where a collector is set."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from mesh.telemetry.durations import Durations

if TYPE_CHECKING:  # 20 MB of every process that has no database
    from sqlalchemy.engine import Connection, ExceptionContext
    from sqlalchemy.ext.asyncio import AsyncEngine

OPERATIONS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"})
STARTED, SPAN = "aiops.started", "aiops.span"


class SqlTelemetry:
    """Hooks on an engine."""

    def __init__(self, durations: Durations, tracer: Tracer | None) -> None:
        self._durations = durations
        self._tracer = tracer

    def watch(self, engine: AsyncEngine) -> None:
        """Measures every statement of the engine."""
        from sqlalchemy import event

        event.listen(engine.sync_engine, "before_cursor_execute", self._before)
        event.listen(engine.sync_engine, "after_cursor_execute", self._after)
        event.listen(engine.sync_engine, "handle_error", self._failed)

    def _before(self, connection: Connection, _cursor: Any, statement: str, *_rest: Any) -> None:
        if self._tracer is not None:
            attributes = {
                "db.system.name": "postgresql",
                "db.query.text": statement,
                "db.operation.name": _operation(statement),
            }
            connection.info[SPAN] = self._tracer.start_span(
                _operation(statement), kind=SpanKind.CLIENT, attributes=attributes
            )
        connection.info[STARTED] = perf_counter()

    def _after(self, connection: Connection, _cursor: Any, statement: str, *_rest: Any) -> None:
        self._finish(connection, statement, "OK")

    def _failed(self, failure: ExceptionContext) -> None:
        if failure.connection is not None and failure.statement is not None:
            self._finish(failure.connection, failure.statement, type(failure.original_exception).__name__)

    def _finish(self, connection: Connection, statement: str, outcome: str) -> None:
        started: float | None = connection.info.pop(STARTED, None)
        span: Span | None = connection.info.pop(SPAN, None)
        if started is not None:
            self._durations.record((_operation(statement), outcome), perf_counter() - started)
        if span is not None:
            if outcome != "OK":
                span.set_status(Status(StatusCode.ERROR, outcome))
            span.end()


def _operation(statement: str) -> str:
    word = statement[:8].partition(" ")[0].upper()
    return word if word in OPERATIONS else "OTHER"
