"""Each engine once for all of this folder's tests, one after the other, behind one gateway."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from node_agent.engines.engine import Engine, EngineOptions, EngineSpec
from node_agent.engines.llamacpp import LlamaCpp
from node_agent.engines.transformers import Transformers
from node_agent.engines.vllm import Vllm
from stack.ports import free_port
from tests.conformance.served import NAME, Served, serving, tool_gguf, tool_model
from tests.fixtures.edge import Edge, running_edge

AGENT_ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
ENGINES = ("transformers", "vllm", "llamacpp")


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """The gateway."""
    async with running_edge(tmp_path_factory.mktemp("edge")) as edge:
        yield edge


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> dict[str, Path]:
    """The demo model, able to be asked about tools, as each engine takes it."""
    folder = tmp_path_factory.mktemp("models")
    model = tool_model(demo_model, folder / "tool-model")
    return {"transformers": model, "vllm": model, "llamacpp": tool_gguf(model, folder / "tool-gguf")}


@pytest_asyncio.fixture(scope="package", loop_scope="package", params=ENGINES)
async def served(
    request: pytest.FixtureRequest, gateway: Edge, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    """The engine of the name that the parameter says."""
    name: str = request.param
    executable: Path = request.getfixturevalue(f"{name}_executable")
    adapters = EngineOptions(max_adapters=1) if name == "vllm" else EngineOptions()
    spec = EngineSpec(NAME, models[name], tmp_path_factory.mktemp(name), "127.0.0.1", free_port(), options=adapters)
    engine: Engine = {"transformers": Transformers, "vllm": Vllm, "llamacpp": LlamaCpp}[name](
        executable, AGENT_ENVIRONMENT
    )
    async with serving(name, engine.plan(spec), spec.port, gateway) as running:
        yield running
