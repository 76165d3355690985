"""An OTLP collector that keeps what it receives."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import Message
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_S = 20


class Collector:
    """Spans and the names of metrics, in the order in which they came."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics: set[str] = set()
        self.endpoint = ""
        self._changed = asyncio.Condition()

    async def Export(self, request: Any, context: Any) -> Any:
        async with self._changed:
            answer = self._keep(request)
            self._changed.notify_all()
        return answer

    async def until(self, satisfied: Callable[[], bool]) -> None:
        """Waits for what was asked."""
        async with asyncio.timeout(WAIT_S), self._changed:
            await self._changed.wait_for(satisfied)

    def _keep(self, request: Any) -> Any:
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            scopes = [scope for resource in request.resource_spans for scope in resource.scope_spans]
            self.spans += [span for scope in scopes for span in scope.spans]
            return trace_service_pb2.ExportTraceServiceResponse()
        measured = [scope for resource in request.resource_metrics for scope in resource.scope_metrics]
        self.metrics |= {metric.name for scope in measured for metric in scope.metrics}
        return metrics_service_pb2.ExportMetricsServiceResponse()


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on a free loopback port."""
    collector = Collector()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            _handler("trace.v1.TraceService", collector.Export, trace_service_pb2.ExportTraceServiceRequest),
            _handler("metrics.v1.MetricsService", collector.Export, metrics_service_pb2.ExportMetricsServiceRequest),
        )
    )
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(0)


def _handler(service: str, export: Callable[[Any, Any], Any], request: type[Message]) -> grpc.GenericRpcHandler:
    method = grpc.unary_unary_rpc_method_handler(
        export, request_deserializer=request.FromString, response_serializer=_serialized
    )
    return grpc.method_handlers_generic_handler(f"opentelemetry.proto.collector.{service}", {"Export": method})


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()
