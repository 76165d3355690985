"""Metrics are always there, cost little, and never hold the service up."""

import asyncio
import time

import grpc
import httpx
import pytest
from opentelemetry.sdk.metrics.export import Histogram
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from mesh.identity import SYSTEM
from mesh.settings import Observability
from mesh.sql.database import Database
from mesh.telemetry import Durations, current_traceparent, start_telemetry
from mesh.telemetry.durations import MOST_SERIES
from mesh.telemetry.telemetry import EXPORT_TIMEOUT_S
from stack.ports import free_port

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def scrape(port: int) -> str:
    async with httpx.AsyncClient() as client:
        response = await client.get(f"http://127.0.0.1:{port}/metrics")
    assert response.status_code == 200
    return response.text


async def test_calls_are_counted_by_method_and_code() -> None:
    telemetry = start_telemetry("test", Observability())
    telemetry.rpc.start("/aiops.A/Get", {}).finish(grpc.StatusCode.OK)
    telemetry.rpc.start("/aiops.A/Get", {}).finish(grpc.StatusCode.OK)
    telemetry.rpc.start("/aiops.A/Get", {}).finish(grpc.StatusCode.NOT_FOUND)
    text_format = await scrape(telemetry.metrics_port)
    await asyncio.to_thread(telemetry.shutdown)
    count = 'rpc_server_call_duration_seconds_count{rpc_method="/aiops.A/Get",rpc_response_status_code="%s"} %s'
    assert count % ("OK", "2.0") in text_format
    assert count % ("NOT_FOUND", "1.0") in text_format
    assert "process_memory_usage_bytes" in text_format
    assert 'service_name="test"' in text_format


async def test_statements_are_measured_whether_they_read_write_or_fail(empty_database: str) -> None:
    telemetry, database = start_telemetry("test", Observability()), Database(empty_database)
    telemetry.watch_engine(database.engine)
    async with database.reading(SYSTEM) as connection:
        await connection.execute(text("SELECT 1"))
    with pytest.raises(ProgrammingError):
        async with database.writing(SYSTEM) as connection:
            await connection.execute(text("DELETE FROM nothing"))
    text_format = await scrape(telemetry.metrics_port)
    await database.dispose()
    await asyncio.to_thread(telemetry.shutdown)
    assert 'db_operation_name="SELECT",outcome="OK"' in text_format
    assert 'db_operation_name="DELETE",outcome="ProgrammingError"' in text_format


async def test_without_a_collector_the_callers_trace_is_still_carried_on() -> None:
    telemetry = start_telemetry("test", Observability(metrics_port=None))

    async def serve_call(metadata: dict[str, str]) -> str:
        call = telemetry.rpc.start("/aiops.A/Get", metadata)
        carried = current_traceparent()
        call.finish(grpc.StatusCode.OK)
        return carried

    carried = await asyncio.create_task(serve_call({"traceparent": PARENT}))
    not_carried = await asyncio.create_task(serve_call({"traceparent": "nonsense"}))
    telemetry.shutdown()
    assert (carried, not_carried, current_traceparent()) == (PARENT, "", "")


async def test_a_dead_collector_costs_no_call_and_a_bounded_time_at_the_end() -> None:
    telemetry = start_telemetry(
        "test", Observability(metrics_port=None, otlp_endpoint=f"http://127.0.0.1:{free_port()}")
    )
    started = time.monotonic()
    for _ in range(5_000):
        telemetry.rpc.start("/aiops.A/Get", {}).finish(grpc.StatusCode.OK)
    assert time.monotonic() - started < 5
    started = time.monotonic()
    await asyncio.to_thread(telemetry.shutdown)
    assert time.monotonic() - started < EXPORT_TIMEOUT_S + 2


def test_labels_past_the_limit_are_counted_together() -> None:
    durations = Durations("test", "", ("name",))
    for number in range(MOST_SERIES + 50):
        durations.record((f"label-{number}",), 0.001)
    data = durations.metric().data
    assert isinstance(data, Histogram)
    assert len(data.data_points) == MOST_SERIES + 1
    assert [point.count for point in data.data_points if point.attributes == {"name": "other"}] == [50]
