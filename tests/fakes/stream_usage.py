"""How the edge gets the counts of streams, as Envoy runs it: the same script in the same LuaJIT."""

from collections.abc import Iterable
from importlib import resources
from typing import Literal, overload

from lupa.luajit21 import LuaRuntime

from gateway.edge.filters import ADDED

_SCRIPTS = resources.files("gateway.edge") / "lua"
_ASK = """
return function(text)
  local start, options = skip_space(text, 1), nil
  for member, value in members(text, start) do
    if member == "stream_options" then options = value end
  end
  return with_usage(text, start, options)
end, usage_remover
"""
_TEXT = "\n".join(
    [
        *((_SCRIPTS / "json.lua").read_text(), f"local ADDED='{ADDED}'", (_SCRIPTS / "stream_usage.lua").read_text()),
        _ASK,
    ]
)
_WITH_USAGE, _REMOVER = LuaRuntime(encoding=None).execute(_TEXT.encode())


def asking(text: str) -> bytes | None:
    """The request with counts asked for; None where nothing is changed."""
    changed: bytes | None = _WITH_USAGE(text.encode())
    return changed


@overload
def kept(chunks: Iterable[bytes], *, pieces_too: Literal[True]) -> list[bytes]: ...
@overload
def kept(chunks: Iterable[bytes]) -> bytes: ...
def kept(chunks: Iterable[bytes], *, pieces_too: bool = False) -> bytes | list[bytes]:
    """What a client gets of a stream that comes in these pieces; `pieces_too` says what of each, and of its end."""
    remove = _REMOVER()
    pieces = [chunk if (rest := remove(chunk)) is None else rest for chunk in (*chunks, b"")]
    return pieces if pieces_too else b"".join(pieces)
