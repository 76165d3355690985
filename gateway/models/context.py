"""What a route tells the filter that reads bodies: fields to refuse, and the name that is sent on."""

from collections.abc import Sequence

from envoy.extensions.filters.http.lua.v3 import lua_pb2
from google.protobuf import any_pb2

from gateway.edge.filters import BODY
from gateway.edge.messages import message, packed
from gateway.models.table import RefusedField


def body_context(model: str, refused: Sequence[RefusedField] = (), rename: str = "") -> any_pb2.Any | None:
    """The filter's part of a route; None where there is nothing to do. `model` is what refusals call it."""
    if not refused and not rename:
        return None
    context: dict[str, object] = {"model": model}
    if refused:
        context["fields"] = [{"path": field.path, "harmless": list(field.harmless)} for field in refused]
    if rename:
        context["rename"] = rename
    return packed(message(lua_pb2.LuaPerRoute, {"name": BODY, "filter_context": context}))
