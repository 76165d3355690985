"""Which engine a node runs a model with, and how it says that it has none."""

from pathlib import Path

import pytest

from node_agent.engines.choice import choose
from node_agent.engines.engine import Engine, EngineUnavailableError
from node_agent.engines.transformers import Transformers
from node_agent.engines.vllm import Vllm

TRANSFORMERS = Transformers(Path("transformers"))
VLLM = Vllm(Path("vllm"))
PLENTY, LITTLE = 32_000, 4_000


@pytest.mark.parametrize(
    ("engines", "has_gpu", "free_memory_mb", "chosen"),
    [
        ([TRANSFORMERS, VLLM], True, LITTLE, "vllm"),
        ([TRANSFORMERS, VLLM], False, PLENTY, "vllm"),
        ([TRANSFORMERS, VLLM], False, LITTLE, "transformers"),
        ([TRANSFORMERS], False, PLENTY, "transformers"),
        ([TRANSFORMERS], True, PLENTY, "transformers"),
        ([VLLM], False, LITTLE, "vllm"),
    ],
)
def test_a_language_model_gets_vllm_where_it_fits_and_transformers_elsewhere(
    engines: list[Engine], has_gpu: bool, free_memory_mb: int, chosen: str
) -> None:
    assert choose("vllm", "llm", engines, has_gpu, free_memory_mb).name == chosen


@pytest.mark.parametrize("framework", ["triton", "custom", ""])
def test_another_framework_is_refused_by_name(framework: str) -> None:
    with pytest.raises(
        EngineUnavailableError, match=f"engine for framework {framework} is not on this node"
    ) as refusal:
        choose(framework, "llm", [TRANSFORMERS], False, PLENTY)
    assert "it has transformers" in refusal.value.message


@pytest.mark.parametrize("task", ["asr", "tts", "cv", "nlp"])
def test_another_task_is_refused_by_name(task: str) -> None:
    with pytest.raises(EngineUnavailableError, match=f"no engine on this node serves task {task}"):
        choose("vllm", task, [VLLM], True, PLENTY)


def test_a_node_without_engines_says_how_to_get_one() -> None:
    with pytest.raises(EngineUnavailableError, match="AIOPS_ENGINE_TRANSFORMERS"):
        choose("vllm", "llm", [], False, PLENTY)
