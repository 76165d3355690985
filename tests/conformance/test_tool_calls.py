"""llama.cpp makes a model call tools where the model's template writes calls, whatever the model would rather say."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from node_agent.engines.engine import EngineSpec, LaunchPlan
from node_agent.engines.llamacpp import LlamaCpp
from stack.ports import free_port
from tests.conformance.conftest import AGENT_ENVIRONMENT
from tests.conformance.served import NAME, TOOLS, running, until_answered
from tests.conformance.test_conformance import TOOL
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tools.demo_model.gguf import converted

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)
# The demo model's template, and how it would write a call.
CALLS = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + (message['content'] or '') }}"
    "{% for call in message.tool_calls or [] %}"
    '<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>'
    "{% endfor %}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SHORT, NAMED = 60, {"type": "function", "function": {"name": TOOL["name"]}}


@pytest.fixture
def plan(tmp_path: Path, demo_model: Path, llamacpp_executable: Path) -> LaunchPlan:
    """How the demo model with such a template is served."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "demo.gguf").write_bytes(converted(demo_model, "{{ bos_token }}" + TOOLS + CALLS))
    spec = EngineSpec(NAME, tmp_path / "model", tmp_path / "run", "127.0.0.1", free_port())
    return LlamaCpp(llamacpp_executable, AGENT_ENVIRONMENT).plan(spec)


@pytest_asyncio.fixture
async def engine(plan: LaunchPlan) -> AsyncIterator[httpx.AsyncClient]:
    """The running engine."""
    origin = plan.health.url.removesuffix("/health")
    async with running(plan) as process, httpx.AsyncClient(base_url=origin, timeout=120) as client:
        for probe in (plan.health, plan.ready):
            await until_answered(probe, process, plan)
        yield client


async def choice(engine: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": "Hello!"}],
        "tools": [{"type": "function", "function": TOOL}],
        "temperature": 0,
        "max_tokens": SHORT,
    }
    answer = await engine.post("/v1/chat/completions", json={**body, **fields})
    assert answer.status_code == 200, answer.text
    chosen: dict[str, Any] = answer.json()["choices"][0]
    return chosen


async def test_a_required_tool_is_not_left_out_and_a_named_one_is_refused_for_it_would_be(
    plan: LaunchPlan, engine: httpx.AsyncClient
) -> None:
    free = await choice(engine, tool_choice="auto")
    assert free["finish_reason"] == "stop"
    # The demo model never learned to call one, and is not let stop before it has.
    assert (await choice(engine, tool_choice="required"))["finish_reason"] == "length"
    assert "tool_choice.type" in {each.path for each in plan.unsupported_fields}
    named = await choice(engine, tool_choice=NAMED)
    assert named["message"]["content"] == free["message"]["content"]


async def test_calls_that_were_made_are_told_to_the_model(engine: httpx.AsyncClient) -> None:
    call = {"id": "1", "type": "function", "function": {"name": TOOL["name"], "arguments": json.dumps({"node": "one"})}}
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Hello!"}]
    messages += [{"role": "assistant", "content": None, "tool_calls": [call]}]
    messages += [{"role": "tool", "tool_call_id": "1", "content": "done"}]
    told = await engine.post("/apply-template", json={"messages": messages})
    assert told.status_code == 200, told.text
    assert '<tool_call>{"name": "restart", "arguments": {"node": "one"}}</tool_call>' in told.json()["prompt"]
