"""What Envoy says about models by itself: lists, descriptions, refusals in OpenAI's words or as a gRPC status."""

import json
from collections.abc import Sequence

from envoy.config.route.v3 import route_components_pb2

from gateway.edge.errors import openai_error
from gateway.edge.messages import message
from gateway.edge.routes import direct
from gateway.models.table import ModelRoute

NAMES_SHOWN = 50
INVALID_ARGUMENT, NOT_FOUND = 3, 5
GET = {"name": ":method", "string_match": {"exact": "GET"}}
GRPC_CALL = {"name": "x-aiops-call", "string_match": {"prefix": "application/grpc"}}

Route = route_components_pb2.Route


def model_list(models: Sequence[ModelRoute], path: dict[str, object]) -> route_components_pb2.Route:
    """OpenAI's list of models."""
    body: dict[str, object] = {"object": "list", "data": [_description(model) for model in models]}
    return _answer({**path, "headers": [GET]}, 200, body)


def model_description(model: ModelRoute) -> route_components_pb2.Route:
    """OpenAI's description of one model."""
    return _answer({"prefix": "/", "headers": [GET]}, 200, _description(model))


def unknown_model(names: Sequence[str]) -> list[route_components_pb2.Route]:
    """Says that there is no such model, and which there are."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    known = f"deployed are: {', '.join(names[:NAMES_SHOWN])}{more}" if names else "none is deployed yet"
    return _refusal(404, NOT_FOUND, "model_not_found", f"there is no such model; {known}")


def private_path(prefix: str) -> route_components_pb2.Route:
    """Says that this part of an engine is not for clients."""
    text = "this path of the engine is not for clients; deployments are changed through the API"
    return _answer({"prefix": prefix}, 404, openai_error(text, "not_found", None))


def invalid_body(text: str) -> list[route_components_pb2.Route]:
    """Says what is wrong with the body."""
    return _refusal(400, INVALID_ARGUMENT, "invalid_body", text)


def _refusal(status: int, grpc_status: int, code: str, text: str) -> list[route_components_pb2.Route]:
    header = {"header": {"key": "grpc-status", "value": str(grpc_status)}}
    plain = direct({"prefix": "/", "headers": [GRPC_CALL]}, status, text, "text/plain")
    plain["response_headers_to_add"] = [{**header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    return [message(Route, plain), _answer({"prefix": "/"}, status, openai_error(text, code, "model"))]


def _description(model: ModelRoute) -> dict[str, object]:
    return {"id": model.model, "object": "model", "created": model.created, "owned_by": model.org_id}


def _answer(match: dict[str, object], status: int, body: dict[str, object]) -> route_components_pb2.Route:
    return message(Route, direct(match, status, json.dumps(body), "application/json"))
