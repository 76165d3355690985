"""Flat messages are written and read as `json_format` does it, whatever is in them."""

import json
from typing import Any

import pytest
from aiops.routing.v1.rollout_pb2 import Rollout
from aiops.usage.v1.usage_events_pb2 import UsageRecorded
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from mesh.flat_json import FlatJson

FLAT = FlatJson(UsageRecorded)
KINDS = {
    FieldDescriptor.TYPE_STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
}


def made(members: dict[str, Any]) -> UsageRecorded:
    return UsageRecorded(**members)


MESSAGES = st.fixed_dictionaries(
    {}, optional={field.name: KINDS[field.type] for field in UsageRecorded.DESCRIPTOR.fields}
).map(made)


def as_usual(message: Message) -> str:
    return json_format.MessageToJson(message, indent=None, always_print_fields_with_no_presence=True)


@given(MESSAGES)
def test_a_message_is_written_as_usual(message: UsageRecorded) -> None:
    assert json.loads(FLAT.write(message)) == json.loads(as_usual(message))


@given(MESSAGES)
def test_what_was_written_is_read_as_usual(message: UsageRecorded) -> None:
    for text in (FLAT.write(message), as_usual(message), json_format.MessageToJson(message)):
        told = json_format.Parse(text, UsageRecorded())
        assert FLAT.read(text).SerializeToString(deterministic=True) == told.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "text",
    [
        '{"usage_id": "a", "input_tokens": "7", "started_at": "1.5"}',
        '{"usageId": "a", "ofTheFuture": {"more": [1]}, "status": 200.0}',
        '{"usageId": null, "mirrored": null, "requestBytes": 1e400}',
        '{"durationMs": 7, "streamed": true}',
    ],
)
def test_other_ways_to_write_are_read_as_usual(text: str) -> None:
    try:
        usual = json_format.Parse(text, UsageRecorded(), ignore_unknown_fields=True)
    except json_format.ParseError:
        with pytest.raises(json_format.ParseError):
            FLAT.read(text)
    else:
        assert FLAT.read(text) == usual


@pytest.mark.parametrize(
    "text", ["", "7", "null", "{", '{"status": -1}', '{"status": true}', '{"model": 7}', '{"model": "\\ud800"}']
)
def test_what_is_no_message_is_refused_as_usual(text: str) -> None:
    with pytest.raises(json_format.ParseError):
        json_format.Parse(text, UsageRecorded())
    with pytest.raises(json_format.ParseError):
        FLAT.read(text)


def test_a_message_in_a_message_is_not_flat() -> None:
    with pytest.raises(TypeError, match="is not flat"):
        FlatJson(Rollout)
