"""A real engine that has too little memory ends, and its end is understood."""

import asyncio
import json
from pathlib import Path

import pytest

from node_agent.engines.engine import EngineSpec, FailureReason
from node_agent.engines.vllm import Vllm
from stack.ports import free_port
from tests.conformance.conftest import AGENT_ENVIRONMENT
from tests.conformance.served import NAME, START_S, log_of, running
from tests.fixtures.engines import ENGINE_TIMEOUT_S

# Tokens of a context whose keys and values fill two gigabytes; vLLM gets one on a processor.
TOO_LONG = 1_000_000


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
