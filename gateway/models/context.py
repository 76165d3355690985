"""What a route tells the filter that reads bodies: fields to refuse, and the name that is sent on."""

from collections.abc import Sequence

from envoy.extensions.filters.http.lua.v3 import lua_pb2
from google.protobuf import any_pb2

from gateway.edge.filters import ADDED, BODY, FIXED_ANSWER
from gateway.edge.messages import message, packed
from gateway.models.table import Balancing, RefusedField

# What requests that are to go to one instance have in common; the filter sets it, and it is hashed.
AFFINITY = "x-aiops-affinity"


def body_context(
    model: str,
    refused: Sequence[RefusedField] = (),
    rename: str = "",
    balancing: Balancing | None = None,
    *,
    plain: bool = False,
) -> any_pb2.Any | None:
    """The filter's part of a route; None where there is nothing to do. `model` is what refusals call it.

    `plain`: the target that it is renamed for takes no `stream_options`.
    """
    if not refused and not rename and balancing is None:
        return None
    context: dict[str, object] = {"model": model}
    if refused:
        context["fields"] = [{"path": field.path, "harmless": list(field.harmless)} for field in refused]
    if rename:
        context["rename"] = rename
    if rename and plain:
        context["plain"] = ADDED
    if balancing is not None:
        context["affinity"], context["prefix"] = balancing.affinity, balancing.prefix_bytes
    return packed(message(lua_pb2.LuaPerRoute, {"name": BODY, "filter_context": context}))


def fixed_answer_context(model: str, text: str) -> any_pb2.Any:
    """The part of a route that answers by itself."""
    content = {"name": FIXED_ANSWER, "filter_context": {"model": model, "text": text}}
    return packed(message(lua_pb2.LuaPerRoute, content))
