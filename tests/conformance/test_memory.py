"""A real engine that has too little memory, or no model that it knows, ends, and its end is understood."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from node_agent.engines.engine import Diagnosis, EngineSpec, FailureReason, LaunchPlan
from node_agent.engines.llamacpp import LlamaCpp
from node_agent.engines.vllm import Vllm
from stack.ports import free_port
from tests.conformance.conftest import AGENT_ENVIRONMENT
from tests.conformance.served import NAME, START_S, log_of, running, tool_gguf
from tests.fixtures.engines import ENGINE_TIMEOUT_S

# Tokens of a context whose keys and values fill two gigabytes; vLLM gets one on a processor.
TOO_LONG = 1_000_000
# Room for the program and not for that.
LITTLE_MEMORY = ("prlimit", "--as=1000000000")


@pytest.fixture
def long_model(tmp_path: Path, demo_model: Path) -> Path:
    """The demo model, which says that its context is that long."""
    directory = tmp_path / "model"
    directory.mkdir()
    for file in demo_model.iterdir():
        if file.name != "config.json":
            (directory / file.name).symlink_to(file)
    config = json.loads((demo_model / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "max_position_embeddings": TOO_LONG}))
    return directory


@pytest.mark.timeout(ENGINE_TIMEOUT_S)
async def test_a_context_that_does_not_fit_is_told_with_what_would(
    tmp_path: Path, long_model: Path, vllm_executable: Path
) -> None:
    engine = Vllm(vllm_executable, AGENT_ENVIRONMENT)
    plan = engine.plan(EngineSpec(NAME, long_model, tmp_path / "run", "127.0.0.1", free_port()))
    async with running(plan) as process:
        async with asyncio.timeout(START_S):
            code = await process.wait()
        diagnosis = engine.diagnose(code, log_of(plan).read_text())
    assert (code != 0, diagnosis.reason) == (True, FailureReason.OUT_OF_MEMORY), diagnosis
    assert "context_tokens" in diagnosis.suggestion


@pytest.mark.timeout(ENGINE_TIMEOUT_S)
async def test_llama_cpp_tells_a_context_that_does_not_fit(
    tmp_path: Path, long_model: Path, llamacpp_executable: Path
) -> None:
    engine = LlamaCpp(llamacpp_executable, AGENT_ENVIRONMENT)
    model = tool_gguf(long_model, tmp_path / "gguf")
    plan = engine.plan(EngineSpec(NAME, model, tmp_path / "run", "127.0.0.1", free_port()))
    diagnosis = await end_of(engine, replace(plan, argv=(*LITTLE_MEMORY, *plan.argv)))
    assert diagnosis.reason == FailureReason.OUT_OF_MEMORY, diagnosis
    assert "context_tokens" in diagnosis.suggestion


@pytest.mark.timeout(ENGINE_TIMEOUT_S)
async def test_llama_cpp_tells_a_model_that_it_does_not_know(
    tmp_path: Path, gguf_model: Path, llamacpp_executable: Path
) -> None:
    engine = LlamaCpp(llamacpp_executable, AGENT_ENVIRONMENT)
    (tmp_path / "gguf").mkdir()
    content = await asyncio.to_thread(gguf_model.read_bytes)
    (tmp_path / "gguf" / "demo.gguf").write_bytes(content.replace(b"llama", b"lumpa"))
    plan = engine.plan(EngineSpec(NAME, tmp_path / "gguf", tmp_path / "run", "127.0.0.1", free_port()))
    diagnosis = await end_of(engine, plan)
    assert (diagnosis.reason, "architecture" in diagnosis.message) == (FailureReason.NOT_A_MODEL, True), diagnosis


async def end_of(engine: LlamaCpp, plan: LaunchPlan) -> Diagnosis:
    """How the start, which fails, is judged."""
    async with running(plan) as process:
        async with asyncio.timeout(START_S):
            code = await process.wait()
        assert code != 0
        return engine.diagnose(code, log_of(plan).read_text())
