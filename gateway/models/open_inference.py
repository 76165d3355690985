"""The Open Inference Protocol's routes: by the model's name in the path, or in a gRPC call's first message."""

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from envoy.config.route.v3 import route_components_pb2

from gateway.edge.counting import CALLER
from gateway.edge.filters import GRPC_MODEL, GRPC_MODEL_KEY, enabled
from gateway.edge.limits import LIMITS
from gateway.edge.messages import message
from gateway.edge.open_inference import CALLS, SERVICE
from gateway.edge.routes import direct, entry
from gateway.models.answers import GET, NOT_FOR_CLIENTS, NOT_FOUND, UNIMPLEMENTED, deployed, grpc_refusal
from gateway.models.table import ModelRoute

ROOT = "/v2"
MODELS = f"{ROOT}/models/"
GRPC = f"/{SERVICE}/"
# The first message of a gRPC call is held until it names its model.
GRPC_LIMIT = 16 * 1024 * 1024
EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")

Route = route_components_pb2.Route


def server_routes() -> list[route_components_pb2.Route]:
    """What the platform says of itself in the protocol's words, and for every other path a second look."""
    described = {"name": "aiops", "version": _version(), "extensions": EXTENSIONS}
    pages = {f"{ROOT}/health/live": "{}", f"{ROOT}/health/ready": "{}", ROOT: json.dumps(described)}
    return [
        message(Route, direct({"path": path, "headers": [GET]}, 200, text, "application/json"))
        for path, text in pages.items()
    ]


def second_look() -> route_components_pb2.Route:
    """Where nothing is known of the caller yet."""
    return message(Route, entry({"prefix": "/"}, enabled([CALLER, *LIMITS]), 0))


def no_such_model(names: Sequence[str]) -> route_components_pb2.Route:
    """Says that there is no such model, and which there are."""
    return _refusal({"prefix": "/"}, f"there is no such model for this protocol; {deployed(names)}")


def unknown_call(names: Sequence[str]) -> list[route_components_pb2.Route]:
    """Says of a gRPC call that there is no such model, or that the call is not for clients."""
    text = f"there is no such model for this protocol; {deployed(names)}"
    about_models = [grpc_refusal({"path": GRPC + call}, 404, NOT_FOUND, text) for call in sorted(CALLS)]
    return [*about_models, grpc_refusal({"prefix": "/"}, 404, UNIMPLEMENTED, NOT_FOR_CLIENTS)]


def private_path(prefix: str) -> route_components_pb2.Route:
    """Says that this part of an engine is not for clients."""
    return _refusal({"prefix": prefix}, NOT_FOR_CLIENTS)


def model_matches(model: str) -> tuple[dict[str, object], ...]:
    """The model's own path and everything below it; no other model's whose name begins alike."""
    return {"path": MODELS + model}, {"prefix": f"{MODELS}{model}/"}


def grpc_entry() -> list[route_components_pb2.Route]:
    """The first pass of a gRPC call: its message is read for the model's name. What is no client's is unknown."""
    filters = enabled((CALLER, GRPC_MODEL, GRPC_MODEL_KEY, *LIMITS))
    routes = [entry({"path": GRPC + call}, filters, GRPC_LIMIT) for call in sorted(CALLS)]
    return [message(Route, route) for route in (*routes, entry({"prefix": "/"}, {}, 0))]


def speaks(route: ModelRoute) -> bool:
    """Whether the model's engines speak the protocol."""
    return bool(route.targets) and all(target.inference_path.startswith(MODELS) for target in route.targets)


def _refusal(match: dict[str, object], text: str) -> route_components_pb2.Route:
    """404 in the protocol's words."""
    return message(Route, direct(match, 404, json.dumps({"error": text}), "application/json"))


def _version() -> str:
    try:
        return version("aiops")
    except PackageNotFoundError:
        return "unknown"
