"""What running engines can be told and asked beyond inference, and that clients cannot do the same."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from mesh.clock import SystemClock
from node_agent.cache.blobs import BlobStore
from node_agent.cache.model import Artifact, ArtifactFile
from node_agent.cache.service import ModelCache
from node_agent.engines.live import Gauges
from node_agent.engines.llamacpp_live import LlamaCppGauges
from node_agent.engines.vllm_live import VllmAdapters, VllmGauges
from node_agent.runtime.model import Instance
from node_agent.workloads.adapters import AdapterKeeper
from node_agent.workloads.loads import Loads
from node_agent.workloads.model import (
    AdapterStatus,
    Process,
    Readiness,
    WorkloadAdapter,
    WorkloadId,
    WorkloadKey,
)
from tests.conformance.lora import write_adapter
from tests.conformance.served import NAME, Served
from tests.fixtures.engines import ENGINE_TIMEOUT_S

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(ENGINE_TIMEOUT_S)]
PIRATE = "pirate"
GAUGES: dict[str, Gauges] = {"vllm": VllmGauges(), "llamacpp": LlamaCppGauges()}
# OpenAI's fields that ask for nothing an answer would show.
LOSSLESS = {
    *("metadata", "modalities", "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    *("safety_identifier", "user"),
}
HONOURED_BY_LLAMACPP = {
    *("frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "messages", "model", "n"),
    *("parallel_tool_calls", "presence_penalty", "reasoning_effort", "response_format", "seed", "stop"),
    *("stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p"),
}
# Everything that vLLM listens on which is for clients, or harmless: a new path fails here until somebody has decided.
FOR_CLIENTS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/responses", "/v1/messages", "/v1/systemone"),
    *("/tokenize", "/detokenize", "/generative_scoring", "/inference/v1/generate", "/invocations"),
    *("/health", "/ping", "/load", "/metrics", "/version", "/kv_event_sources", "/is_scaling_elastic_ep"),
)


@dataclass
class Wanting:
    """A workload that is to have adapters, and what it was told of them."""

    wanted_adapters: tuple[WorkloadAdapter, ...] = ()
    told: tuple[AdapterStatus, ...] = ()
    keeper: AdapterKeeper = field(kw_only=True)
    process: Process = field(kw_only=True)
    directory: Path = field(kw_only=True)

    def adapted(self, statuses: tuple[AdapterStatus, ...]) -> None:
        self.told = statuses

    async def want(self, *adapters: WorkloadAdapter) -> tuple[AdapterStatus, ...]:
        self.wanted_adapters = adapters
        await self.keeper.step(self, self.process, self.directory)
        return self.told


@pytest_asyncio.fixture(loop_scope="package")
async def wanting(served: Served, tmp_path: Path) -> AsyncIterator[Wanting]:
    """The served engine's workload; it ends without adapters."""
    readiness = Readiness(served.plan.health.url, served.plan.ready.url)
    instance = Instance("1", served.process.pid, "")
    process = Process(instance, 1, served.engine, served.port, datetime.now(UTC), readiness, ready=True)
    keeper = AdapterKeeper(ModelCache(BlobStore(tmp_path / "cache", 0)), {"vllm": VllmAdapters()})
    workload = Wanting(keeper=keeper, process=process, directory=tmp_path / "adapters")
    yield workload
    await workload.want()


def adapter_of(directory: Path, name: str = PIRATE) -> WorkloadAdapter:
    """The directory as the registry would tell of it."""
    files = [
        ArtifactFile(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(directory.iterdir())
    ]
    return WorkloadAdapter(name, Artifact(directory.as_uri(), tuple(files)))


async def test_an_adapter_comes_and_goes_while_the_engine_runs_or_is_said_not_to(
    served: Served, wanting: Wanting, tmp_path: Path
) -> None:
    adapter = adapter_of(write_adapter(tmp_path / "lora"))
    told = await wanting.want(adapter)
    if not served.behaves("adapters are loaded and unloaded while it runs"):
        assert [(each.name, each.loaded) for each in told] == [(PIRATE, False)]
        assert "takes no adapters" in told[0].error
        return
    assert told == (AdapterStatus(PIRATE, loaded=True),)
    assert await wanting.want(adapter) == told
    plain, changed = await served.raw_chat(max_tokens=30), await served.raw_chat(max_tokens=30, model=PIRATE)
    assert changed.status_code == 200, changed.text
    assert changed.json()["model"] == PIRATE
    assert changed.json()["choices"] != plain.json()["choices"]
    assert (await served.raw_chat(max_tokens=30)).json()["choices"] == plain.json()["choices"]
    assert await wanting.want() == ()
    assert (await served.raw_chat(model=PIRATE)).status_code == 404


async def test_an_adapter_that_does_not_fit_is_told_with_the_engines_words(
    served: Served, wanting: Wanting, tmp_path: Path
) -> None:
    directory = write_adapter(tmp_path / "lora")
    (directory / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4096, "target_modules": ["v_proj"]}')
    (told,) = await wanting.want(adapter_of(directory))
    assert not told.loaded
    assert told.error
    assert (await served.raw_chat()).status_code == 200


async def test_what_changes_the_engine_is_out_of_clients_reach(served: Served) -> None:
    edge = served.edge
    assert (await served.chat()).status_code == 200
    for path in served.plan.private_paths:
        answer = await edge.client.post(f"/models/{NAME}/one{path}", json={}, headers=edge.bearer())
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path
    if served.engine != "vllm":
        return
    paths: dict[str, Any] = (await served.direct.get("/openapi.json")).json()["paths"]
    private = tuple(served.plan.private_paths)
    undecided = [path for path in paths if not path.startswith((*private, *FOR_CLIENTS))]
    assert undecided == []
    assert {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"} <= set(paths)


async def test_an_engine_tells_how_busy_it_is_or_nothing(served: Served, wanting: Wanting) -> None:
    loads, key = Loads(GAUGES, SystemClock()), WorkloadKey(WorkloadId("dep-1"), 0)
    await served.chat(max_tokens=5)
    await loads.step([(key, wanting.process)])
    load = loads.of(key)
    if served.engine not in GAUGES:
        assert load is None
        return
    assert load is not None
    assert (load.waiting_requests, load.prompt_tokens > 0, load.generated_tokens >= 5) == (0, True, True)
    if served.behaves("it tells requests, first tokens and how full its cache is"):
        assert load.requests > 0
        assert 0 < load.first_token_s / load.first_tokens < 60
        assert 0 <= load.kv_cache_percent <= 100
    else:
        assert (load.requests, load.first_tokens, load.kv_cache_percent) == (0, 0, 0)
    await served.chat(max_tokens=5)
    await loads.step([(key, wanting.process)])
    later = loads.of(key)
    assert later is not None
    assert later.generated_tokens == load.generated_tokens + 5


async def test_the_capabilities_cover_every_field_that_openai_has(served: Served) -> None:
    """A field that OpenAI adds, or that a new vLLM drops, fails here until somebody has decided about it."""
    openai = set(CompletionCreateParamsBase.__annotations__)
    refused = {each.path.split(".")[0] for each in served.plan.unsupported_fields}
    if served.engine == "llamacpp":
        assert openai - LOSSLESS - refused == HONOURED_BY_LLAMACPP - refused
    if served.engine != "vllm":
        # What transformers' server lists its own test compares; llama.cpp's lists nothing.
        return
    schemas = (await served.direct.get("/openapi.json")).json()["components"]["schemas"]
    known = set(schemas["ChatCompletionRequest"]["properties"])
    assert openai - known - LOSSLESS == refused - {"best_of", "reasoning_effort", "tools"}
