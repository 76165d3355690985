"""A name of one's own in front of a model: made on the command line, chosen by a rule, called by a program."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from cli.exits import Exit
from client.router import Router, RouterError
from tests.fakes.eventually import eventually
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.platform.served import Served, question

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)


async def test_a_route_is_made_chosen_called_and_taken_away(served: Served, rest: httpx.AsyncClient) -> None:
    made = served.platform.aiops_json(
        "routes", "create", "assistant", "--target", f"{served.model}=100", "--alias", "helper/1"
    )
    assert (made["name"], made["version"]) == ("assistant", 1)

    async def answers() -> bool:
        return (await rest.post("/v1/chat/completions", json=question("helper/1"))).status_code == 200

    await eventually(answers, 30)
    rules = served.platform.aiops_json("routes", "rules", "set", "--rule", "chat=assistant", "--default", served.model)
    assert rules["rules"][0]["model"] == "assistant"
    try:
        await asyncio.to_thread(_call, served)
        told = served.platform.aiops_json("routes", "for", "chat", "--prefer", "nothing")
        assert [each["chosen"] for each in told["considered"]] == [False, True]
    finally:
        served.platform.aiops_json("routes", "rules", "set")
        served.platform.aiops_json("routes", "delete", "assistant")

    async def is_gone() -> bool:
        return (await rest.post("/v1/chat/completions", json=question("assistant"))).status_code == 404

    await eventually(is_gone, 30)


def _call(served: Served) -> None:
    with Router(served.platform.url, served.api_key) as router:
        assert router.route({"task_type": "chat", "complexity": "high"}) == "assistant"
        assert router.route({"task_type": "chat", "preferred_model": served.model}) == served.model
        answer = router.invoke_model("assistant", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3})
        assert answer["choices"][0]["message"]["role"] == "assistant"
        with pytest.raises(RouterError) as refused:
            router.invoke_model("no-such-model", {"messages": []})
        assert (refused.value.status, refused.value.reason) == (404, "model_not_found")


def test_a_providers_key_goes_in_through_a_pipe_and_a_route_in_a_file_uses_it(served: Served, tmp_path: Path) -> None:
    platform = served.platform
    made = platform.aiops("credentials", "create", "far-key", "-o", "json", stdin="sk-key-of-a-provider\n")
    assert made.returncode == 0, made.stderr
    credential_id = json.loads(made.stdout)["credentialId"]
    assert "sk-key-of-a-provider" not in made.stdout + made.stderr
    file = tmp_path / "far.json"
    target = {"provider": "openai", "model": "gpt-4o", "credential_id": credential_id, "weight": 1}
    file.write_text(json.dumps({"targets": [target]}))
    route = platform.aiops_json("routes", "create", "far", "-f", str(file))
    assert route["targets"][0]["credentialId"] == credential_id
    assert platform.aiops("credentials", "delete", "far-key").returncode == Exit.CONFLICT
    assert platform.aiops_json("routes", "update", "far", "--alias", "away")["version"] == 2
    platform.aiops_json("routes", "delete", "far")
    assert [each["name"] for each in platform.aiops_json("credentials", "ls")] == ["far-key"]
    platform.aiops_json("credentials", "delete", "far-key")
