"""Events as CloudEvents 1.0 in Kafka's binary mode: attributes in headers, ProtoJSON in the value."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from mesh.errors import DomainError, Kind

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"

Headers = Sequence[tuple[str, bytes]]


class MalformedEventError(DomainError):
    """A record is no CloudEvent in binary mode with a JSON value."""

    kind, reason = Kind.INVALID, "INVALID_REQUEST"


@dataclass(frozen=True, slots=True)
class Envelope:
    """One event on its way. `key` is the entity's id, `value` the event as ProtoJSON.

    `organization` is whose the event is, empty for the platform's own.
    """

    event_id: str
    type: str
    source: str
    subject: str
    topic: str
    key: str
    time: datetime
    value: str
    traceparent: str = ""
    organization: str = ""


def headers_of(envelope: Envelope, traceparent: str = "") -> list[tuple[str, bytes]]:
    """The record's headers; `traceparent` overrides the envelope's own.

    Source: CloudEvents Kafka Protocol Binding 1.0 §3.2, and its Distributed Tracing extension.
    """
    attributes = {
        "ce_specversion": SPEC_VERSION,
        "ce_id": envelope.event_id,
        "ce_source": envelope.source,
        "ce_type": envelope.type,
        "ce_time": envelope.time.isoformat().replace("+00:00", "Z"),
        "ce_subject": envelope.subject,
        # An extension of the platform's own.
        "ce_organization": envelope.organization,
        "traceparent": traceparent or envelope.traceparent,
        "content-type": CONTENT_TYPE,
    }
    return [(name, value.encode()) for name, value in attributes.items() if value]


def envelope_of(topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> Envelope:
    """The event that a record carries. Raises MalformedEventError."""
    try:
        attributes = {name: raw.decode() for name, raw in headers}
        text = (value or b"").decode()
        json.loads(text)
        return Envelope(
            event_id=_required(attributes, "ce_id"),
            type=_required(attributes, "ce_type"),
            source=_required(attributes, "ce_source"),
            subject=attributes.get("ce_subject", ""),
            topic=topic,
            key=(key or b"").decode(),
            time=datetime.fromisoformat(_required(attributes, "ce_time")),
            value=text,
            traceparent=attributes.get("traceparent", ""),
            organization=attributes.get("ce_organization", ""),
        )
    except ValueError as error:
        raise MalformedEventError(f"the record is no CloudEvent with a JSON value: {error}") from error


def _required(attributes: Mapping[str, str], name: str) -> str:
    value = attributes.get(name, "")
    if not value:
        raise MalformedEventError(f"the record has no header {name}")
    return value
