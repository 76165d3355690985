"""What the edge notes of each inference request, and the access log that tells it: who asked, what the engine counted.

All of it happens inside Envoy. The notes are dynamic metadata of the namespace `aiops`; the access log has them all.
"""

from collections.abc import Iterator
from pathlib import Path

from gateway.edge.limits import ROUTE
from gateway.edge.messages import HTTP, PREFIX, typed

CALLER = "aiops.caller"
COUNTS = "aiops.counts"
STREAM_COUNTS = "aiops.stream_counts"
# On the routes whose answers say what they used; on those whose answers do not, the caller alone.
COUNTING = (CALLER, COUNTS, STREAM_COUNTS)

NOTES = "aiops"
LONGEST_EVENT = 1024 * 1024
# The filter's own default refuses a charset parameter.
JSON = {"regex": "(?i)application/json(;.*)?"}

# What is noted, and where answers have it: in OpenAI's chats and completions, and in its responses.
TOKENS = {
    "input_tokens": (("prompt_tokens",), ("input_tokens",)),
    "output_tokens": (("completion_tokens",), ("output_tokens",)),
    "cached_tokens": (("prompt_tokens_details", "cached_tokens"), ("input_tokens_details", "cached_tokens")),
}
CLAIMS = {"org": "x-aiops-org", "user": "x-aiops-user", "token": "x-aiops-token-id", "token_type": "x-aiops-token-type"}
# Headers between Envoy and itself; no client sees them.
ANSWERED = {"deployment": "x-aiops-deployment", "instance": "x-aiops-instance"}


def caller() -> dict[str, object]:
    """The filter that notes who asks, as the verified token says, and who answered behind the relay of a policy."""
    asked = [{"header": header, "on_header_present": _note(key, "STRING")} for key, header in CLAIMS.items()]
    answered = [
        {"header": header, "on_header_present": _note(key, "STRING"), "remove": True}
        for key, header in ANSWERED.items()
    ]
    return typed(HTTP + "header_to_metadata.v3.Config", request_rules=asked, response_rules=answered)


def counts() -> dict[str, object]:
    """The filter that notes the tokens of a whole answer."""
    rules = {"rules": list(_rules("usage")), "allow_content_types_regex": JSON}
    return typed(HTTP + "json_to_metadata.v3.JsonToMetadata", response_rules=rules)


def stream_counts() -> dict[str, object]:
    """The filter that notes the tokens of a stream: the last event that has them counts."""
    rules = [{"rule": rule} for place in (("usage",), ("response", "usage")) for rule in _rules(*place)]
    kind = PREFIX + "envoy.extensions.content_parsers.json.v3.JsonContentParser"
    parser = {"name": "envoy.content_parsers.json", "typed_config": {"@type": kind, "rules": rules}}
    return untyped(
        HTTP + "sse_to_metadata.v3.SseToMetadata",
        response_rules={"content_parser": parser, "max_event_size": LONGEST_EVENT},
    )


def untyped(kind: str, /, **content: object) -> dict[str, object]:
    """An extension's configuration whose type the official Python classes lack; Envoy reads it by its JSON names."""
    return typed("xds.type.v3.TypedStruct", type_url=PREFIX + kind, value=content)


def access_log(path: Path, **more: str) -> dict[str, object]:
    """The log of requests that reached a model's routes: a line of JSON each, with `more` in it, appended to a file.

    A file takes a line whoever else is there. Envoy's gRPC logger drops what it holds whenever its peer is away.
    """
    noted = {"filter": NOTES, "path": [{"key": "org"}], "value": {"present_match": True}}
    line = {
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "cluster": "%UPSTREAM_CLUSTER_RAW%",
        "content_type": "%RESP(CONTENT-TYPE):64%",
        "degraded": "%RESP(X-AIOPS-DEGRADED):8%",
        "deployment": f"%UPSTREAM_METADATA({NOTES}:deployment)%",
        "duration_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
        "first_byte_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:us)%",
        "flags": "%RESPONSE_FLAGS%",
        "instance": "%UPSTREAM_METADATA(envoy.lb:instance)%",
        "notes": f"%DYNAMIC_METADATA({NOTES})%",
        "path": "%PATH(NQ:ORIG_OR_PATH):256%",
        "request_bytes": "%BYTES_RECEIVED%",
        "request_id": "%REQ(X-REQUEST-ID):128%",
        "response_bytes": "%BYTES_SENT%",
        "route": f"%METADATA(ROUTE:{ROUTE})%",
        "started": "%START_TIME(%s.%6f)%",
        "status": "%RESPONSE_CODE%",
        "target": f"%UPSTREAM_METADATA({NOTES}:target)%",
        **more,
    }
    return {
        "name": "envoy.access_loggers.file",
        "filter": {"metadata_filter": {"matcher": noted, "match_if_key_not_found": False}},
        "typed_config": typed(
            "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            path=str(path),
            log_format={"json_format": line, "json_format_options": {"sort_properties": True}},
        ),
    }


def _rules(*place: str) -> Iterator[dict[str, object]]:
    for key, paths in TOKENS.items():
        for path in paths:
            selectors = [{"key": step} for step in (*place, *path)]
            yield {"selectors": selectors, "on_present": _note(key, "NUMBER")}


def _note(key: str, kind: str) -> dict[str, object]:
    return {"metadata_namespace": NOTES, "key": key, "type": kind}
