"""How busy engines are: read from what vLLM really prints, and never waited for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from node_agent.engines.live import EngineLoad, samples
from node_agent.engines.llamacpp_live import LlamaCppGauges
from node_agent.engines.triton_live import TritonGauges
from node_agent.engines.vllm_live import VllmGauges
from node_agent.runtime.model import Instance
from node_agent.workloads.loads import PATIENCE_S, STALE_S, Loads
from node_agent.workloads.model import Process, Readiness, WorkloadId, WorkloadKey
from tests.fakes.clock import ManualClock

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b} c"} 3.0
vllm:num_requests_waiting{engine="0",model_name="demo"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="demo"} 0.25
vllm:prompt_tokens_total{engine="0",model_name="demo"} 115.0
vllm:generation_tokens_total{engine="0",model_name="demo"} 232.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="demo"} 1.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="demo"} 19.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="demo"} 0.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="demo"} 20.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="demo"} 2.5
python_gc_objects_collected_total 12 1395066363000
nonsense
not_a_number NaN
"""
# What llama-server printed after the same chat twice, 10 tokens in and 20 out.
LLAMACPP_PAGE = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 11
# HELP llamacpp:prompt_tokens_cached_total Number of prompt tokens reused from the cache
# TYPE llamacpp:prompt_tokens_cached_total counter
llamacpp:prompt_tokens_cached_total 9
llamacpp:prompt_seconds_total 1.07112
llamacpp:tokens_predicted_total 40
llamacpp:tokens_predicted_seconds_total 3.36021
llamacpp:n_decode_total 40
llamacpp:spec_decode_num_accepted_tokens_total 0
llamacpp:prompt_tokens_seconds 10.2697
llamacpp:requests_processing 1
llamacpp:requests_deferred 2
"""
# As its statistics extension has it.
TRITON_STATISTICS = """{"model_stats": [{"name": "demo", "version": "1", "inference_count": 9, "execution_count": 9,
"inference_stats": {"success": {"count": 8, "ns": 1}, "fail": {"count": 1, "ns": 1}, "queue": {"count": 8,
"ns": 1}}}]}"""
LOAD = EngineLoad(3, 2, 25.0, 115.0, 232.0, 20.0, 2.5, 20.0, counts_tokens=True, counts_requests=True)
KEY, SLOW = WorkloadKey(WorkloadId("dep-1"), 0), WorkloadKey(WorkloadId("dep-2"), 0)


@asynccontextmanager
async def engine(page: str | None) -> AsyncIterator[Process]:
    """An engine whose metrics are this page, or never come."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if page is not None:
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + page.encode())
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        readiness = Readiness(f"http://127.0.0.1:{port}/health", f"http://127.0.0.1:{port}/v1")
        yield Process(Instance("1", 1, ""), 1, "vllm", port, datetime.now(UTC), readiness, ready=True)


def test_vllms_own_metrics_are_understood() -> None:
    assert VllmGauges().load(PAGE) == LOAD
    assert VllmGauges().load("") == EngineLoad()
    assert samples(PAGE)["python_gc_objects_collected_total"] == 12


def test_each_engine_says_what_it_counts() -> None:
    llamacpp = LlamaCppGauges().load(LLAMACPP_PAGE)
    assert llamacpp == EngineLoad(1, 2, prompt_tokens=20, generated_tokens=40, counts_tokens=True)
    assert LlamaCppGauges().load("llamacpp:requests_processing 1\n") == EngineLoad(1)
    assert TritonGauges().load(TRITON_STATISTICS) == EngineLoad(requests=9, counts_requests=True)
    assert TritonGauges().load("{}") == EngineLoad()


async def test_an_engine_that_does_not_answer_holds_up_nobody() -> None:
    clock = ManualClock()
    loads = Loads({"vllm": VllmGauges()}, clock)
    async with engine(PAGE) as quick, engine(None) as slow, asyncio.timeout(2 * PATIENCE_S):
        await loads.step([(KEY, quick), (SLOW, slow)])
        assert (loads.of(KEY), loads.of(SLOW)) == (LOAD, None)
    # The engine is gone: what it said counts for a while, then nothing does.
    await loads.step([(KEY, quick)])
    assert loads.of(KEY) == LOAD
    clock.advance(timedelta(seconds=STALE_S + 1))
    assert loads.of(KEY) is None
    await loads.step([])
    assert loads.of(KEY) is None
