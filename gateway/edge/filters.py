"""The HTTP filters of the public port, in order, with the reason for each one's place."""

import base64
from collections.abc import Iterable
from functools import cache
from importlib import resources

from gateway.edge import counting, limits
from gateway.edge.contracts import INFERENCE_SERVICE, descriptor_set, public_methods
from gateway.edge.fields import field_tables
from gateway.edge.messages import HTTP, typed
from gateway.edge.open_inference import extraction
from gateway.edge.wire import wire_tables

JWT = "envoy.filters.http.jwt_authn"
REVOCATIONS = "aiops.revocations"
GRPC_CODES = "aiops.grpc_codes"
ENGINE_ERRORS = "aiops.engine_errors"
GRPC_TO_JSON = "aiops.grpc_to_json"
GRPC_SCRIPT_STATUS = "aiops.grpc_script_status"
GRPC_TRAILERS = "aiops.grpc_trailers"
GRPC_SCRIPT = "aiops.grpc_script"
MODEL_NAME = "aiops.model_name"
GRPC_MODEL = "aiops.grpc_model"
GRPC_MODEL_KEY = "aiops.grpc_model_key"
TRANSCRIPTION = "aiops.transcription"
INSTANCE_STREAMS = "aiops.instance_streams"
# For clients that speak Anthropic's Messages, and for targets that do.
MESSAGES = "aiops.messages"
MESSAGES_TARGET = "aiops.messages_target"
BODY = "aiops.body"
FIXED_ANSWER = "aiops.fixed_answer"
OPENAI_ERRORS = "aiops.openai_errors"
ENDPOINT = "aiops.endpoint"
FIELDS = "aiops.fields"
UNWRAP = "aiops.unwrap"
TRANSCODER = "aiops.transcoder"
ENGINE_STATUS = "aiops.engine_status"

# Filters that only some routes pass; a route names those it wants.
METERED = (*counting.COUNTING, *limits.LIMITS)
CHAT = (MODEL_NAME, BODY, OPENAI_ERRORS, *METERED)
GRPC_CHAT = (GRPC_CODES, GRPC_TO_JSON, ENGINE_ERRORS, *CHAT, ENGINE_STATUS)
# Streams of answers, and recordings: what the transcoder has no way for.
SCRIPTED = (GRPC_SCRIPT_STATUS, GRPC_TRAILERS, GRPC_SCRIPT)
GRPC_STREAM = (*SCRIPTED, *CHAT)
GRPC_RECORDING = (*SCRIPTED, TRANSCRIPTION, *METERED)
READS = (UNWRAP, TRANSCODER)
WRITES = (FIELDS, UNWRAP, TRANSCODER)

# What a stream's request begins with where counts are asked for only for the ledger.
ADDED = '{"stream_options":{"include_usage":true},'

REQUEST_LIMIT = 4 * 1024 * 1024
RECORDING_LIMIT = 26 * 1024 * 1024
RESPONSE_LIMIT = 16 * 1024 * 1024
MISSING, INVALID = "!missing", "!invalid"


def chain() -> list[dict[str, object]]:
    """The chain. CORS answers preflights before a token is asked for; tokens are checked before a body is read."""
    return [
        {"name": "envoy.filters.http.cors", "typed_config": typed(HTTP + "cors.v3.Cors")},
        {"name": "envoy.filters.http.grpc_web", "typed_config": typed(HTTP + "grpc_web.v3.GrpcWeb")},
        _discovered(JWT, HTTP + "jwt_authn.v3.JwtAuthentication"),
        _discovered(REVOCATIONS, HTTP + "rbac.v3.RBAC"),
        _optional(counting.CALLER, counting.caller()),
        _optional(GRPC_CODES, _grpc_codes()),
        _optional(GRPC_TO_JSON, _grpc_to_json()),
        _optional(ENGINE_ERRORS, typed(HTTP + "lua.v3.Lua", default_source_code=_source("engine_errors.lua"))),
        _optional(GRPC_SCRIPT_STATUS, _script_status()),
        _optional(GRPC_TRAILERS, _trailers()),
        _optional(GRPC_SCRIPT, _dialect("wire", "grpc", tables=wire_tables(public_methods()))),
        # Before the model is read, so that all behind it see a chat.
        _optional(MESSAGES, _dialect("chat_request", "message_answer", "edge")),
        _optional(MODEL_NAME, typed(HTTP + "lua.v3.Lua", default_source_code=_stream_script("model_name.lua"))),
        _optional(GRPC_MODEL, extraction()),
        _optional(GRPC_MODEL_KEY, typed(HTTP + "lua.v3.Lua", default_source_code=_source("grpc_model.lua"))),
        _optional(TRANSCRIPTION, typed(HTTP + "lua.v3.Lua", default_source_code=_source("transcription.lua"))),
        # Behind what finds out the model, before a body is read again.
        *limits.discovered(),
        _optional(
            INSTANCE_STREAMS, typed(HTTP + "lua.v3.Lua", default_source_code=_stream_script("instance_streams.lua"))
        ),
        {**body_filter(), "disabled": True},
        _optional(OPENAI_ERRORS, typed(HTTP + "lua.v3.Lua", default_source_code=_stream_script("openai_errors.lua"))),
        _optional(ENDPOINT, typed(HTTP + "lua.v3.Lua", default_source_code=_source("endpoint.lua"))),
        _optional(
            FIELDS,
            typed(HTTP + "lua.v3.Lua", default_source_code=_source("fields.lua", field_tables(public_methods()))),
        ),
        _optional(UNWRAP, typed(HTTP + "lua.v3.Lua", source_codes={UNWRAP: _source("unwrap.lua")})),
        _optional(TRANSCODER, _transcoder()),
        _optional(ENGINE_STATUS, _engine_status()),
        # Last, so that answers are read as the engine gave them.
        _optional(counting.COUNTS, counting.counts()),
        _optional(counting.STREAM_COUNTS, counting.stream_counts()),
        {"name": "envoy.filters.http.router", "typed_config": typed(HTTP + "router.v3.Router")},
    ]


def body_filter() -> dict[str, object]:
    """Refuses fields and names the model, as the route says; without a word from it, nothing."""
    return {"name": BODY, "typed_config": typed(HTTP + "lua.v3.Lua", source_codes={BODY: _source("body.lua")})}


def messages_target_filter() -> dict[str, object]:
    """Speaks Anthropic's Messages to a target; only where a route switches it on."""
    return _optional(MESSAGES_TARGET, _dialect("messages_request", "chat_answer", "target"))


def fixed_answer_filter() -> dict[str, object]:
    """Answers chats and completions where the route says what; elsewhere it does nothing."""
    sources = {FIXED_ANSWER: _source("fixed_answer.lua")}
    return {"name": FIXED_ANSWER, "typed_config": typed(HTTP + "lua.v3.Lua", source_codes=sources)}


def enabled(names: Iterable[str]) -> dict[str, object]:
    """A route's `typed_per_filter_config` that switches filters on."""
    return {name: typed("envoy.config.route.v3.FilterConfig", config={}) for name in names}


def script(name: str, tables: str = "") -> dict[str, object]:
    """A script of the edge's, behind what all of them read JSON with and some tables in Lua."""
    return _source(name, tables)


@cache
def _descriptors() -> str:
    return base64.b64encode(descriptor_set().SerializeToString(deterministic=True)).decode()


def _discovered(name: str, kind: str) -> dict[str, object]:
    source = {"ads": {}, "resource_api_version": "V3"}
    return {"name": name, "config_discovery": {"config_source": source, "type_urls": [f"type.googleapis.com/{kind}"]}}


def _optional(name: str, config: dict[str, object]) -> dict[str, object]:
    return {"name": name, "typed_config": config, "disabled": True}


def _source(script: str, tables: str = "") -> dict[str, object]:
    scripts = resources.files("gateway.edge") / "lua"
    return {"inline_string": "\n".join(((scripts / "json.lua").read_text(), tables, (scripts / script).read_text()))}


def _stream_script(name: str) -> dict[str, object]:
    shared = (resources.files("gateway.edge") / "lua" / "stream_usage.lua").read_text()
    return _source(name, f"local ADDED='{ADDED}'\n{shared}")


def _dialect(*parts: str, tables: str = "") -> dict[str, object]:
    scripts = resources.files("gateway.edge") / "lua"
    read = [scripts / "json.lua", *(scripts / "dialects" / f"{part}.lua" for part in ("pieces", *parts))]
    text = "\n".join((tables, *(part.read_text() for part in read)))
    return typed(HTTP + "lua.v3.Lua", default_source_code={"inline_string": text})


def _trailers() -> dict[str, object]:
    """Ends answers with a status, as gRPC asks for. The script before it has written the rest."""
    return typed(HTTP + "grpc_http1_reverse_bridge.v3.FilterConfig", content_type="application/grpc")


def _script_status() -> dict[str, object]:
    noted = {
        "grpc-status": "%DYNAMIC_METADATA(aiops.grpc:code)%",
        "grpc-message": "%DYNAMIC_METADATA(aiops.grpc:message)%",
    }
    mutations = {"response_trailers_mutations": [_set(key, value) for key, value in noted.items()]}
    return typed(HTTP + "header_mutation.v3.HeaderMutation", mutations=mutations)


def _set(key: str, value: str) -> dict[str, object]:
    return {"append": {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}


def _grpc_to_json() -> dict[str, object]:
    return typed(
        HTTP + "grpc_json_reverse_transcoder.v3.GrpcJsonReverseTranscoder",
        descriptor_binary=_descriptors(),
        max_request_body_size=REQUEST_LIMIT,
        max_response_body_size=RESPONSE_LIMIT,
    )


def _engine_status() -> dict[str, object]:
    mutations = {"response_mutations": [_set("x-aiops-engine-status", "%RESP(:status)%")]}
    return typed(HTTP + "header_mutation.v3.HeaderMutation", mutations=mutations)


def _grpc_codes() -> dict[str, object]:
    # The reverse transcoder knows no way from HTTP to INVALID_ARGUMENT, NOT_FOUND or RESOURCE_EXHAUSTED.
    status = "response.headers['x-aiops-engine-status']"
    given = "response.trailers['grpc-status']"
    code = f"{status} in ['400', '422'] ? '3' : {status} == '404' ? '5' : {status} == '429' ? '8' : {given}"
    mutations = {"response_trailers_mutations": [_set("grpc-status", f"%CEL({code})%")]}
    return typed(HTTP + "header_mutation.v3.HeaderMutation", mutations=mutations)


def _transcoder() -> dict[str, object]:
    services = sorted({method.service for method in public_methods() if method.bindings} - {INFERENCE_SERVICE})
    return typed(
        HTTP + "grpc_json_transcoder.v3.GrpcJsonTranscoder",
        proto_descriptor_bin=_descriptors(),
        services=services,
        convert_grpc_status=True,
        print_options={"always_print_primitive_fields": True, "stream_newline_delimited": True},
        request_validation_options={
            "reject_unknown_query_parameters": True,
            "reject_binding_body_field_collisions": True,
        },
        max_request_body_size=REQUEST_LIMIT,
        max_response_body_size=RESPONSE_LIMIT,
    )
