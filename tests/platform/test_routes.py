"""A name of one's own in front of a model: made on the command line, chosen by a rule, called by a program."""

import asyncio

import httpx
import pytest

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
