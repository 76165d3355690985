"""What the edge makes of a stream that only it wants counts of: the request, and the answer wherever it is cut."""

import json
from typing import Any

import pytest

from tests.fakes.provider import event
from tests.fakes.stream_usage import asking, kept

COUNTS = {"prompt_tokens": 4, "completion_tokens": 3}
HEAD: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk"}


def chunk(text: str, **more: object) -> dict[str, Any]:
    return HEAD | {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} | more


SAID = [
    event(chunk("Grüße [] {}", usage=None)),
    event(chunk('"choices":[],"usage":{}')),
    event(chunk("x", tool_calls=[])),
]
COUNTED = event(HEAD | {"choices": [], "usage": COUNTS})
DONE = b"data: [DONE]\n\n"
ASKED = {"include_usage": True}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ASKED),
        ({"stream_options": None}, ASKED),
        ({"stream_options": {}}, ASKED),
        ({"stream_options": {"include_usage": False}}, ASKED),
        ({"stream_options": {"include_usage": None}}, ASKED),
        ({"stream_options": {"other": [1, "}"]}}, {"other": [1, "}"], **ASKED}),
        ({"stream_options": {"include_usage": False, "other": 1}}, {"other": 1, **ASKED}),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_request_asks_for_counts_and_is_the_same_otherwise(
    options: dict[str, Any], expected: dict[str, Any], indent: int | None
) -> None:
    body = {"model": "m", "stream": True, **options, "messages": [{"content": 'a "stream_options" \\'}]}
    assert json.loads(asking(json.dumps(body, indent=indent)) or b"") == {**body, "stream_options": expected}


@pytest.mark.parametrize("options", [ASKED, {"include_usage": True, "other": 1}, "none", [ASKED], 1])
def test_a_request_that_asks_already_or_nonsense_is_left_alone(options: Any) -> None:
    assert asking(json.dumps({"stream": True, "stream_options": options})) is None


def test_only_the_event_of_counts_is_kept_from_the_client_wherever_the_stream_is_cut() -> None:
    for ending in (b"\n\n", b"\r\n\r\n"):
        said = b": waits\n\n".join([*SAID, DONE]).replace(b"\n\n", ending)
        stream = b": waits\n\n".join([*SAID, COUNTED + DONE]).replace(b"\n\n", ending)
        assert kept([stream]) == said
        assert kept(bytes([each]) for each in stream) == said
        for place in range(1, len(stream)):
            assert kept([stream[:place], stream[place:]]) == said


@pytest.mark.parametrize(
    "stream",
    [
        event(HEAD | {"choices": [], "prompt_filter_results": []}) + DONE,
        event(HEAD | {"choices": [], "usage": None}) + DONE,
        event(chunk("x", usage=COUNTS)) + DONE,
        event({"error": {"message": "[]"}}),
        b'data: {"choices":[],"usage":{"prompt_tokens":',
        b"data: [DONE]\n",
        b"data: " + b"x" * 1_100_000,
        b"[]\n\n",
        b"",
    ],
)
def test_everything_else_comes_through_as_it_was(stream: bytes) -> None:
    assert kept([stream]) == stream
    for place in range(1, len(stream) if len(stream) < 400 else 20):
        assert kept([stream[:place], stream[place:]]) == stream


def test_whole_events_wait_for_nothing() -> None:
    pieces = [*SAID, DONE, b"data: [DONE]"]
    assert kept(pieces, pieces_too=True) == [*pieces, b""]
    begun = kept([SAID[0] + SAID[1][:9], SAID[1][9:]], pieces_too=True)
    assert begun == [SAID[0], SAID[1], b""]
