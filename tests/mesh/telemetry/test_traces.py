"""One request is one trace, from the call over the rows and the broker to the consumer's effect."""

import asyncio

from aiops.system.v1 import system_service_pb2 as pb
from aiops.system.v1.system_service_pb2_grpc import SystemServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import SystemClock
from mesh.events.consumer import Consumer
from mesh.events.kafka import Kafka
from mesh.events.outbox import Envelope
from mesh.events.publisher import KafkaPublisher
from mesh.events.relay import Relay
from mesh.rpc.authenticator import PeerAuthenticator
from mesh.rpc.channel import open_channel
from mesh.rpc.server import Listener, serve
from mesh.settings import Observability
from mesh.sql.database import Database
from mesh.telemetry import start_telemetry
from tests.fakes.collector import Collector, collecting
from tests.fakes.writer import Writer
from tests.mesh.events.records import new_topic

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
METHOD = "aiops.system.v1.SystemService/GetHealth"


async def note(connection: AsyncConnection, event: Envelope) -> None:
    await connection.execute(text("SELECT 'effect'"))


async def test_a_request_is_one_trace_across_grpc_sql_outbox_and_consumer(
    events_database: Database, kafka: str
) -> None:
    topic = new_topic("trace")
    async with collecting() as collector:
        telemetry = start_telemetry("test", Observability(metrics_port=None, otlp_endpoint=collector.endpoint))
        telemetry.watch_engine(events_database.engine)
        relay = Relay(events_database, KafkaPublisher(Kafka(kafka)), telemetry)
        consumer = Consumer(
            topic, [topic], {"test.counted": note}, database=events_database, kafka=Kafka(kafka), telemetry=telemetry
        )
        running = [asyncio.ensure_future(relay.run()), asyncio.ensure_future(consumer.run())]
        servicer = Writer(events_database, topic)
        async with (
            serve([Listener("127.0.0.1:0")], [servicer], PeerAuthenticator(SystemClock()), telemetry.rpc) as server,
            open_channel(f"127.0.0.1:{server.ports[0]}") as channel,
        ):
            metadata = (("traceparent", f"00-{TRACE}-{CALLER}-01"),)
            await SystemServiceStub(channel).GetHealth(pb.GetHealthRequest(), metadata=metadata)
        await collector.until(lambda: effect_of(collector) is not None)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.to_thread(telemetry.shutdown)
        await collector.until(lambda: "rpc.server.call.duration" in collector.metrics)
    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == TRACE}
    served, inserted, published, processed = (
        spans[name] for name in (METHOD, "INSERT", f"publish {topic}", f"process {topic}")
    )
    assert served.parent_span_id.hex() == CALLER
    assert published.parent_span_id == served.span_id
    assert processed.parent_span_id == published.span_id
    assert inserted.parent_span_id in {served.span_id, processed.span_id}
    effect = effect_of(collector)
    assert effect is not None
    assert effect.parent_span_id == processed.span_id
    assert {"outbox.published", "events.consumed", "db.client.operation.duration"} <= collector.metrics


def effect_of(collector: Collector) -> Span | None:
    texts = ((span, attribute.value.string_value) for span in collector.spans for attribute in span.attributes)
    return next((span for span, value in texts if value == "SELECT 'effect'" and span.trace_id.hex() == TRACE), None)
