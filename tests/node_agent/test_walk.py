"""The agent from hello to a served model, and away again."""

from collections.abc import Callable

import httpx
from aiops.nodes.v1 import node_session_service_pb2 as pb

from tests.fakes.controller import FakeController
from tests.fixtures.node_agent import AgentProcess

Workload = Callable[..., pb.WorkloadSpec]


async def test_a_wanted_model_is_fetched_started_served_and_ended(
    agent: AgentProcess, controller: FakeController, workload: Workload
) -> None:
    await agent.start()
    await controller.until(lambda it: it.hellos)
    controller.want(workload())
    running = await controller.until_status("dep-1", "running")
    states = [pb.WorkloadStatus.State.Name(each.state) for each in controller.statuses]
    assert [*dict.fromkeys(states)] == ["downloading", "extracting", "starting", "running"]
    assert (running.progress, running.engine, running.runtime, running.health) == (
        100,
        "transformers",
        "process",
        "healthy",
    )
    assert running.facts.inference_path == "/v1/chat/completions"
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.port}") as client:
        answer = await client.post("/v1/chat/completions", json={"model": "demo", "messages": []})
    assert answer.json()["choices"][0]["message"]["content"] == "I am demo"
    controller.want(workload(goal=pb.WorkloadSpec.end))
    stopped = await controller.until_status("dep-1", "stopped")
    assert stopped.event == "stopped"
    assert not agent.engines()
    assert await agent.end() == 0
