"""How a room tells its events: for each class the contract's message, and what the record around it carries."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from mesh.events.cloudevents import Envelope
from mesh.identity import new_id

SOURCE = "/aiops/controller"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one class of event is told: `type` is the CloudEvents type, `key` the id of the entity it is about."""

    type: str
    topic: str
    key: Callable[[Any], str]
    message: Callable[[Any], Message]


Encodings = Mapping[type, Encoding]


def envelopes(encodings: Encodings, events: Iterable[Any], now: datetime, traceparent: str) -> list[Envelope]:
    """The events as outbox rows. An event tells its own time in `at`, where it has one."""
    return [_envelope(encodings[type(event)], event, now, traceparent) for event in events]


def _envelope(encoding: Encoding, event: Any, now: datetime, traceparent: str) -> Envelope:
    key = encoding.key(event)
    return Envelope(
        event_id=new_id("event"),
        type=encoding.type,
        source=SOURCE,
        subject=key,
        topic=encoding.topic,
        key=key,
        time=getattr(event, "at", now),
        value=MessageToJson(encoding.message(event), indent=None, always_print_fields_with_no_presence=True),
        traceparent=traceparent,
        organization=organization_of(event),
    )


def organization_of(event: Any) -> str:
    """Whose an event is: what it says itself, or what the entity in it says; empty for the platform's own."""
    told: str | None = getattr(event, "org_id", None)
    if told is not None:
        return told
    entities = (getattr(event, each.name) for each in fields(event))
    return next((str(owner) for each in entities if (owner := getattr(each, "org_id", None))), "")
