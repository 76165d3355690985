"""What every engine does the same behind the gateway, and what each says that it does not."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.served import NAME, Served, chunks, text_of
from tests.fixtures.engines import ENGINE_TIMEOUT_S

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(ENGINE_TIMEOUT_S)]
Answer = dict[str, Any]
Check = Callable[[Answer], bool]

TOOL = {
    "name": "restart",
    "description": "Restarts a node.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"node": {"enum": ["one", "two"]}},
        "required": ["node"],
        "additionalProperties": False,
    },
}
COLOURS = {
    "type": "json_schema",
    "json_schema": {"name": "colour", "strict": True, "schema": {"enum": ["red", "green"]}},
}


def content(answer: Answer) -> str:
    return str(answer["choices"][0]["message"]["content"])


def is_colour(answer: Answer) -> bool:
    return content(answer) in {'"red"', '"green"'}


def is_object(answer: Answer) -> bool:
    try:
        return isinstance(json.loads(content(answer)), dict)
    except ValueError:
        return False


def calls_the_tool(answer: Answer) -> bool:
    (call,) = answer["choices"][0]["message"].get("tool_calls") or [{"function": {"name": "", "arguments": "{}"}}]
    return call["function"]["name"] == "restart" and json.loads(call["function"]["arguments"])["node"] in {"one", "two"}


# The demo model's token for the word that it begins with.
HELLO = 1207
# A field, a request with it, and how to see that the engine has honoured it.
FIELDS: list[tuple[str, dict[str, Any], Check]] = [
    ("n", {"n": 2, "temperature": 1}, lambda answer: len(answer["choices"]) == 2),
    ("logprobs", {"logprobs": True}, lambda answer: bool((answer["choices"][0].get("logprobs") or {}).get("content"))),
    (
        "response_format.type",
        {"response_format": COLOURS, "max_tokens": 40},
        is_colour,
    ),
    # A small model writes spaces for ever unless it is told to get on.
    (
        "response_format.type",
        {"response_format": {"type": "json_object"}, "max_tokens": 400, "frequency_penalty": 2},
        is_object,
    ),
    (
        "tool_choice",
        {
            "tools": [{"type": "function", "function": TOOL}],
            "tool_choice": "required",
            "max_tokens": 200,
            "frequency_penalty": 2,
        },
        calls_the_tool,
    ),
    ("logit_bias", {"logit_bias": {str(HELLO): -100}}, lambda answer: not content(answer).startswith("Hello")),
]


async def test_an_answer_has_openais_shape(served: Served) -> None:
    answer = (await served.chat("What is a GPU node?", max_tokens=60)).json()
    assert (answer["object"], answer["choices"][0]["index"]) == ("chat.completion", 0)
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert "graphics cards" in content(answer)
    assert answer["choices"][0]["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 10
    as_asked = served.behaves("an answer names the model as it was asked for")
    assert (answer["model"] == NAME) is as_asked


async def test_a_stream_says_the_same_in_pieces_and_ends(served: Served) -> None:
    plain = (await served.chat(max_tokens=40)).json()
    events = await served.stream(max_tokens=40)
    assert text_of(events) == content(plain)
    pieces = chunks(events)
    assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"}
    assert len({piece["id"] for piece in pieces}) == 1
    reasons = [
        choice["finish_reason"] for piece in pieces for choice in piece["choices"] if choice.get("finish_reason")
    ]
    assert reasons == [plain["choices"][0]["finish_reason"]]
    assert (events[-1] == "[DONE]") is served.behaves("a stream ends with `[DONE]`")


async def test_a_stream_tells_usage_when_it_is_asked_to(served: Served) -> None:
    plain = (await served.chat()).json()["usage"]
    asked = chunks(await served.stream(stream_options={"include_usage": True}))
    (told,) = [piece["usage"] for piece in asked if piece.get("usage")]
    assert {name: told[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
        name: plain[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    }
    unasked = [piece for piece in chunks(await served.stream()) if piece.get("usage")]
    assert (not unasked) is served.behaves("a stream tells usage only when asked to")


async def test_what_follows_a_stream_is_answered(served: Served) -> None:
    """An engine may close the connection of a stream just when the next request is on it."""
    for _ in range(10):
        await served.stream(max_tokens=2)
        answer = await served.chat(max_tokens=1)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("limit", [{"max_tokens": 3}, {"max_completion_tokens": 3, "max_tokens": None}])
async def test_an_answer_keeps_its_limit(served: Served, limit: dict[str, Any]) -> None:
    answer = (await served.chat(**limit)).json()
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (3, "length")


async def test_an_answer_ends_at_a_stop_string(served: Served) -> None:
    answer = (await served.chat(stop=[" I"], max_tokens=40)).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert content(answer).startswith("Hello!")
    assert (" I" not in content(answer)) is served.behaves("a stop string is left out of the answer")


async def test_another_model_is_not_found(served: Served) -> None:
    answer = await served.chat(model="other")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    # Nor does the engine take it for its own, should a request reach it, or it says that it does.
    refused = (await served.raw_chat(model="other")).status_code in {400, 404}
    assert refused is served.behaves("a model that it does not serve is refused by the engine, too")


@pytest.mark.parametrize("fault", [{"max_tokens": "many"}, {"messages": None}, {"temperature": "hot"}])
async def test_a_faulty_request_is_refused_in_openais_words(served: Served, fault: dict[str, Any]) -> None:
    answer = await served.chat(**fault)
    assert 400 <= answer.status_code < 600
    error = answer.json()["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    assert "type" in error

    async def answers() -> bool:
        # An engine that failed may have closed the connection that the next request is sent on.
        return (await served.chat()).status_code == 200

    await served.edge.until(answers, seconds=30)


async def test_a_conversation_longer_than_the_context_is_refused_or_said_to_be_taken(served: Served) -> None:
    answer = await served.chat("word " * 3000)
    refused = served.behaves("a conversation longer than the context is refused")
    assert answer.status_code == (400 if refused else 200)
    if refused:
        assert "context" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("path", "fields", "honoured"), FIELDS)
async def test_a_field_is_honoured_or_refused_and_the_refusal_is_still_needed(
    served: Served, path: str, fields: dict[str, Any], honoured: Check
) -> None:
    answer = await served.chat(**fields)
    if not served.declares(path):
        assert answer.status_code == 200, answer.text
        assert honoured(answer.json()), answer.text
        return
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, path)
    raw = await served.raw_chat(**fields)
    assert raw.status_code != 200 or not honoured(raw.json())


async def test_tools_that_are_not_called_change_nothing_of_the_answers_shape(served: Served) -> None:
    answer = await served.chat(tools=[{"type": "function", "function": TOOL}], tool_choice="auto")
    assert answer.status_code == 200, answer.text
    assert not answer.json()["choices"][0]["message"].get("tool_calls")


async def test_requests_at_once_are_all_answered_alike(served: Served) -> None:
    answers = await asyncio.gather(*(served.chat(max_tokens=30) for _ in range(6)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({content(answer.json()) for answer in answers}) == 1


async def test_a_client_that_goes_away_leaves_the_engine_to_others(served: Served) -> None:
    body = {"model": NAME, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 400, "stream": True}
    request = served.edge.client.stream("POST", "/v1/chat/completions", json=body, headers=served.edge.bearer())
    async with request as answer:
        async for line in answer.aiter_lines():
            if line:
                break
    assert (await served.chat()).status_code == 200
