"""What Envoy says about models by itself: lists, descriptions, refusals in OpenAI's words or as a gRPC status."""

import json
from collections.abc import Sequence

from envoy.config.route.v3 import route_components_pb2

from gateway.edge.errors import openai_error
from gateway.edge.messages import message
from gateway.edge.routes import direct
from gateway.models.table import Listed, ModelRoute

NAMES_SHOWN = 50
NOT_FOR_CLIENTS = "this path of the engine is not for clients; deployments are changed through the API"
INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED = 3, 5, 12
GET = {"name": ":method", "string_match": {"exact": "GET"}}
GRPC_CALL = {"name": "x-aiops-call", "string_match": {"prefix": "application/grpc"}}

Route = route_components_pb2.Route


def model_list(models: Sequence[Listed], path: dict[str, object]) -> route_components_pb2.Route:
    """OpenAI's list of models."""
    body: dict[str, object] = {"object": "list", "data": [_description(model) for model in models]}
    return _answer({**path, "headers": [GET]}, 200, body)


def model_description(model: Listed) -> route_components_pb2.Route:
    """OpenAI's description of one model."""
    return _answer({"prefix": "/", "headers": [GET]}, 200, _description(model))


def unknown_model(names: Sequence[str]) -> list[route_components_pb2.Route]:
    """Says that there is no such model, and which there are."""
    return _refusal(404, NOT_FOUND, "model_not_found", f"there is no such model; {deployed(names)}")


def deployed(names: Sequence[str]) -> str:
    """Some of the names in a sentence."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"deployed are: {', '.join(names[:NAMES_SHOWN])}{more}" if names else "none is deployed yet"


def private_path(prefix: str) -> route_components_pb2.Route:
    """Says that this part of an engine is not for clients."""
    return _answer({"prefix": prefix}, 404, openai_error(NOT_FOR_CLIENTS, "not_found", None))


def wrong_protocol(model: ModelRoute) -> route_components_pb2.Route:
    """Says that the model's engine speaks another protocol than OpenAI's."""
    path = model.targets[0].inference_path
    text = f"model {model.model} speaks the Open Inference Protocol; send its tensors to POST {path}"
    return _answer({"prefix": "/"}, 404, openai_error(text, "wrong_protocol", "model"))


def invalid_body(text: str) -> list[route_components_pb2.Route]:
    """Says what is wrong with the body."""
    return _refusal(400, INVALID_ARGUMENT, "invalid_body", text)


def grpc_refusal(match: dict[str, object], status: int, grpc_status: int, text: str) -> route_components_pb2.Route:
    """A gRPC status."""
    header = {"header": {"key": "grpc-status", "value": str(grpc_status)}}
    plain = direct(match, status, text, "text/plain")
    plain["response_headers_to_add"] = [{**header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    return message(Route, plain)


def _refusal(status: int, grpc_status: int, code: str, text: str) -> list[route_components_pb2.Route]:
    plain = grpc_refusal({"prefix": "/", "headers": [GRPC_CALL]}, status, grpc_status, text)
    return [plain, _answer({"prefix": "/"}, status, openai_error(text, code, "model"))]


def _description(model: Listed) -> dict[str, object]:
    return {"id": model.model, "object": "model", "created": model.created, "owned_by": model.org_id}


def _answer(match: dict[str, object], status: int, body: dict[str, object]) -> route_components_pb2.Route:
    return message(Route, direct(match, status, json.dumps(body), "application/json"))
