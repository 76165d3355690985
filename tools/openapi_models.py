"""The routes that engines answer, in OpenAPI: OpenAI's API, and the ones of a single instance."""

from typing import Any

JSON = "application/json"
ANY = {"type": "object", "additionalProperties": True}


def _call(
    operation: str, summary: str, schema: dict[str, Any], parameters: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    error = {
        "description": "OpenAI's error object.",
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/ModelError"}}},
    }
    call: dict[str, Any] = {
        "operationId": operation,
        "tags": ["Models served"],
        "summary": summary,
        "requestBody": {"required": True, "content": {JSON: {"schema": schema}}},
        "responses": {
            "200": {
                "description": "The engine's answer; a stream of server-sent events when `stream` is true.",
                "content": {JSON: {"schema": ANY}, "text/event-stream": {"schema": {"type": "string"}}},
            },
            "default": error,
        },
    }
    return {"post": call | ({"parameters": parameters} if parameters else {})}


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


_MODEL = {
    "type": "object",
    "required": ["model"],
    "properties": {"model": {"type": "string"}},
    "additionalProperties": True,
}
_LIST = {
    "operationId": "models",
    "tags": ["Models served"],
    "summary": "The models that are deployed in the caller's organisation",
    "responses": {"200": {"description": "OpenAI's list.", "content": {JSON: {"schema": ANY}}}},
}

MODEL_PATHS: dict[str, dict[str, Any]] = {
    "/v1/models": {"get": _LIST},
    "/v1/chat/completions": _call("chat", "Chat with a model", {"$ref": "#/components/schemas/ModelChat"}),
    "/v1/completions": _call("completions", "Complete a text", _MODEL),
    "/v1/embeddings": _call("embeddings", "Embed texts", _MODEL),
    "/v1/responses": _call("responses", "Respond, where the engine can", _MODEL),
    "/models/{model}/{instance}/v1/inference": _call(
        "inference", "One instance's own inference call", ANY, [_parameter("model"), _parameter("instance")]
    ),
}

MODEL_SCHEMAS: dict[str, dict[str, Any]] = {
    "ModelChat": {
        "type": "object",
        "required": ["model", "messages"],
        "properties": {
            "model": {"type": "string", "description": "Name of a deployed model."},
            "messages": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["role", "content"],
                    "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
                },
            },
            "max_tokens": {"type": "integer"},
            "temperature": {"type": "number"},
            "stream": {"type": "boolean"},
        },
        "additionalProperties": True,
    },
    "ModelError": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    },
}
