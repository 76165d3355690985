"""The translation between OpenAI's chat and Anthropic's Messages, by the scripts that Envoy runs."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import dialects
from tests.fakes.dialects import RefusedRequestError
from tests.fakes.provider import call, chat, chunks, event, message, message_events

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SAID = TEXTS.filter(bool)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
CALLS = st.lists(st.tuples(SAID, OBJECTS), max_size=3)
FEW = settings(max_examples=60, deadline=None)


def written(content: object, *, ascii_only: bool) -> bytes:
    return json.dumps(content, ensure_ascii=ascii_only).encode()


@FEW
@given(TEXTS, st.booleans())
def test_a_string_is_read_as_json_reads_it(text: str, ascii_only: bool) -> None:
    assert dialects.decoded(written(text, ascii_only=ascii_only)) == text


def test_half_a_character_is_replaced() -> None:
    assert dialects.decoded(rb'"a\ud83dz"') == "a\ufffdz"
    assert dialects.decoded(rb'"\udc00\\ud83d"') == "\ufffd\\ud83d"


@FEW
@given(OBJECTS, st.data())
def test_what_is_no_json_object_is_not_taken_for_one(content: Any, data: st.DataObject) -> None:
    text = written(content, ascii_only=True)
    assert dialects.is_sound_object(text)
    place = data.draw(st.integers(0, len(text)))
    spoilt = text[:place] + data.draw(st.sampled_from([b'"', b"{", b",", b"\\", b"x", b"1", b""])) + text[place + 1 :]
    try:
        sound = isinstance(json.loads(spoilt), dict)
    except ValueError:
        sound = False
    assert dialects.is_sound_object(spoilt) == sound


@FEW
@given(SAID, SAID, CALLS, st.booleans())
def test_a_conversation_keeps_its_meaning_there_and_back(
    system: str, text: str, calls: list[tuple[str, Any]], ascii_only: bool
) -> None:
    used = [{"type": "tool_use", "id": f"t{n}", "name": name, "input": given} for n, (name, given) in enumerate(calls)]
    results = [{"type": "tool_result", "tool_use_id": f"t{n}", "content": text} for n in range(len(calls))]
    said = [{"type": "text", "text": text}]
    asked = {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": system}],
        "messages": [
            {"role": "user", "content": said},
            {"role": "assistant", "content": said + used},
            {"role": "user", "content": [*results, *said]},
        ],
        "stop_sequences": [text],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "tool", "name": "f"},
    }
    back = dialects.messages_request(dialects.chat_request(written(asked, ascii_only=ascii_only)))
    for result in results:
        result["content"] = [{"type": "text", "text": text}]  # type: ignore[assignment]
    assert back == asked


@FEW
@given(TEXTS, CALLS, st.booleans(), st.data())
def test_a_stream_tells_what_the_whole_answer_tells_wherever_it_is_cut(
    text: str, calls: list[tuple[str, Any]], ascii_only: bool, data: st.DataObject
) -> None:
    made = [call(name, given, number) for number, (name, given) in enumerate(calls)]
    finish = "tool_calls" if calls else "stop"
    whole = dialects.message_answer(chat(text or None, calls=made, finish=finish))
    deltas: list[Any] = [{"role": "assistant", "content": ""}, *({"content": letter} for letter in text)]
    for number, each in enumerate(made):
        arguments = each["function"]["arguments"]
        deltas.append({"tool_calls": [{"index": number, **each, "function": {**each["function"], "arguments": ""}}]})
        deltas += [{"tool_calls": [{"index": number, "function": {"arguments": part}}]} for part in arguments]
    stream = b"".join(map(event, chunks(*deltas, finish=finish)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    told = dialects.message_stream(piece for piece in pieces if piece)
    assert assembled(told) == {name: whole[name] for name in ("content", "stop_reason", "usage")}


def test_a_stream_may_be_cut_at_every_byte() -> None:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {"x": "Köln 😀"}}
    theirs = b"".join(map(event, message_events({"type": "text", "text": "Grüße"}, block, stop="tool_use")))
    ours = dialects.chat_stream([theirs])
    back = dialects.message_stream([ours])
    assert [each["type"] for each in assembled(back)["content"]] == ["text", "tool_use"]
    for place in range(1, len(theirs)):
        assert dialects.chat_stream([theirs[:place], theirs[place:]]) == ours
    for place in range(1, len(ours)):
        assert dialects.message_stream([ours[:place], ours[place:]]) == back
    crlf = theirs.replace(b"\n", b"\r\n")
    assert dialects.chat_stream(bytes([each]) for each in crlf) == ours


def test_answers_keep_their_reasons_and_counts() -> None:
    for finish, reason in (("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal")):
        assert dialects.message_answer(chat(finish=finish))["stop_reason"] == reason
    stopped = chat()
    stopped["choices"][0]["stop_reason"] = "X"
    assert dialects.message_answer(stopped)["stop_sequence"] == "X"
    for stop, reason in (("end_turn", "stop"), ("max_tokens", "length"), ("refusal", "content_filter")):
        assert dialects.chat_answer(message(stop=stop))["choices"][0]["finish_reason"] == reason
    usage = dialects.message_answer(chat(cached=4))["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (7, 4, 7)


def test_an_empty_answer_is_a_message_without_blocks() -> None:
    for content in (None, ""):
        assert dialects.message_answer(chat(content))["content"] == []
    told = assembled(dialects.message_stream([b"".join(map(event, chunks({"content": ""})))]))
    assert (told["content"], told["stop_reason"]) == ([], "end_turn")


def test_arguments_that_are_no_json_are_handed_on_as_what_they_are() -> None:
    spoilt = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": '}}
    answer = dialects.message_answer(chat(None, calls=[spoilt]))
    assert (answer["content"][0]["input"], answer["stop_reason"]) == ({"INVALID_JSON": '{"x": '}, "tool_use")


def test_a_stream_that_breaks_says_so_and_nothing_after() -> None:
    parts = [*chunks({"content": "he"})[:1], {"error": {"message": "gone"}}, *chunks({"content": "more"})]
    told = dialects.message_stream([b"".join(map(event, parts))]).decode()
    assert told.endswith('data: {"type":"error","error":{"type":"api_error","message":"gone"}}\n\n')
    # One that ends without a word has no end that a client could take for one.
    assert "message_stop" not in dialects.message_stream([event(parts[0])]).decode()


def test_errors_keep_their_words() -> None:
    ours = {"error": {"message": "no such model", "type": "invalid_request_error"}}
    theirs = dialects.message_error(ours, 404)
    assert theirs == {"type": "error", "error": {"type": "not_found_error", "message": "no such model"}}
    assert dialects.message_error(theirs, 404) is None
    assert dialects.chat_error(theirs)["error"]["message"] == "no such model"
    assert dialects.message_error(b"upstream is gone", 502)["error"]["message"] == "upstream is gone"


def test_pictures_and_results_of_tools_find_their_place() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "no"}], "is_error": True}
    asked = {
        "model": "m",
        "messages": [{"role": "user", "content": [result, {"type": "text", "text": "see"}, picture]}],
    }
    tool, user = dialects.chat_request(asked)["messages"]
    assert tool == {"role": "tool", "tool_call_id": "t", "content": "Error:\nno"}
    assert [part["type"] for part in user["content"]] == ["text", "image_url"]
    back = dialects.messages_request({"model": "m", "messages": [user]})["messages"][0]["content"]
    assert back == [{"type": "text", "text": "see"}, picture]


@pytest.mark.parametrize(
    ("field", "value"),
    [("mcp_servers", [{}]), ("thinking", {"type": "enabled"}), ("container", "c"), ("prefill", [{}])],
)
def test_what_models_here_lack_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(RefusedRequestError, match=f"would ignore '{field}'"):
        dialects.chat_request({"model": "m", "messages": [], field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("logprobs", True), ("seed", 1), ("n", 2), ("frequency_penalty", 0.5), ("logit_bias", {"1": 2})],
)
def test_what_anthropic_lacks_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(RefusedRequestError) as refused:
        dialects.messages_request({"model": "m", "messages": [], field: value})
    assert refused.value.param == field
    assert dialects.messages_request({"model": "m", "messages": [], field: None})["model"] == "m"


def test_tools_of_anthropics_own_are_refused() -> None:
    with pytest.raises(RefusedRequestError, match="web_search_20250305 runs at Anthropic"):
        dialects.chat_request({"model": "m", "tools": [{"type": "web_search_20250305", "name": "web_search"}]})


def assembled(stream: bytes) -> dict[str, Any]:
    """The message that a stream of events tells, checking that its blocks come one after the other."""
    blocks: list[dict[str, Any]] = []
    ending: dict[str, Any] = {}
    pieces: list[str] = []
    told = [json.loads(line[6:]) for line in stream.decode().split("\n") if line.startswith("data: ")]
    assert (told[0]["type"], told[-1]["type"]) == ("message_start", "message_stop")
    for each in told[1:-1]:
        kind = each["type"]
        if kind == "content_block_start":
            assert each["index"] == len(blocks)
            blocks.append(each["content_block"])
            pieces = []
        elif kind == "content_block_delta":
            assert each["index"] == len(blocks) - 1
            pieces.append(each["delta"].get("text", each["delta"].get("partial_json")))
        elif kind == "content_block_stop" and blocks[-1]["type"] == "text":
            blocks[-1]["text"] = "".join(pieces)
        elif kind == "content_block_stop":
            blocks[-1]["input"] = json.loads("".join(pieces) or "{}")
        else:
            ending = {**each["delta"], "usage": each["usage"]}
    return {"content": blocks, "stop_reason": ending["stop_reason"], "usage": ending["usage"]}
