"""What a line of Envoy's access log says that a request used."""

import json
from typing import Any

from aiops.usage.v1 import usage_events_pb2 as pb

API_KEY = "api_key"
MOST_TOKENS = 2**32 - 1
TOO_MANY = 429
# What each line begins with: Envoy writes the members in the order of their names.
BEGIN = b'{"attempts":'
# What routes say that tokens cost.
PRICES = ("input_price", "output_price", "cached_price")
# Clusters of routes by policy are named by kind, route and the target that requests there are for at first.
LED = ("target", "chain", "relayed")


def record(line: bytes, usage_id: str) -> pb.UsageRecorded | None:
    """What one request used; None when it led to no model. Raises ValueError for a line that is none of Envoy's."""
    entry = _parsed(line)
    if not entry.get("cluster") or _held_back(entry):
        return None
    notes = entry.get("notes") or {}
    # A route that says nothing of itself is a line.
    route = entry["route"] if isinstance(entry.get("route"), dict) else {}
    route_id, intended_target = _led(entry["cluster"])
    tokens = {name: _tokens(notes.get(name)) for name in ("input_tokens", "output_tokens", "cached_tokens")}
    return pb.UsageRecorded(
        usage_id=usage_id,
        org_id=_text(notes, "org"),
        user_id=_text(notes, "user"),
        api_key_id=_text(notes, "token") if notes.get("token_type") == API_KEY else "",
        model=_text(notes, "model") or entry["cluster"].split("/", 2)[-1],
        instance_id=_text(entry, "instance") or _text(notes, "instance"),
        deployment_id=_text(entry, "deployment") or _text(notes, "deployment"),
        target=_text(entry, "target"),
        degraded=entry.get("degraded") == "true",
        route_id=route_id,
        intended_target=intended_target,
        mirrored=entry.get("mirrored") == "true",
        endpoint=_text(entry, "path"),
        request_id=_text(entry, "request_id"),
        started_at=float(entry["started"]) * 1000,
        duration_ms=_milliseconds(entry.get("duration_us")),
        first_byte_ms=_milliseconds(entry.get("first_byte_us")),
        status=int(notes.get("engine_status") or entry.get("status") or 0),
        streamed=_text(entry, "content_type").startswith("text/event-stream") or notes.get("streamed") is True,
        counted="input_tokens" in notes or "output_tokens" in notes,
        input_tokens=tokens["input_tokens"],
        output_tokens=tokens["output_tokens"],
        cached_tokens=tokens["cached_tokens"],
        request_bytes=float(entry.get("request_bytes") or 0),
        response_bytes=float(entry.get("response_bytes") or 0),
        attempts=int(entry.get("attempts") or 0),
        flags=_text(entry, "flags"),
        route_name=_text(route, "model") if route_id else "",
        **{name: _text(route, name) for name in PRICES},
    )


def _held_back(entry: dict[str, Any]) -> bool:
    """Whether a quota refused it, so that nobody was asked."""
    return entry.get("status") == TOO_MANY and not entry.get("attempts")


def _led(cluster: str) -> tuple[str, str]:
    kind, _, led = cluster.partition("/")
    route_id, _, target = led.partition("/")
    return (route_id, target) if kind in LED else ("", "")


def _parsed(line: bytes) -> dict[str, Any]:
    """The line's entry. An Envoy that was killed may have left half a line, which the next one goes on behind."""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = json.loads(line[line.rindex(BEGIN) :])
    if not isinstance(entry, dict):
        raise TypeError("a line of the access log is no object")
    return entry


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    return "" if value is None or value == "-" else str(value)


def _tokens(value: object) -> int:
    """A count that an engine gave, which may be anything at all."""
    return int(min(max(value, 0), MOST_TOKENS)) if isinstance(value, int | float) and value == value else 0


def _milliseconds(microseconds: object) -> float:
    return float(microseconds) / 1000 if isinstance(microseconds, int | float | str) and microseconds != "-" else 0.0
