"""The translations between dialects as Envoy runs them, called from Python: the same scripts in the same LuaJIT."""

import json
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Any

from lupa.luajit21 import LuaRuntime

NOW = "1700000000"


class RefusedRequestError(Exception):
    """A translation found something that the other side has no word for."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


def load(part: str, *names: str) -> list[Callable[..., Any]]:
    """Functions of one script, with what stands before it in Envoy. They take and give bytes."""
    scripts = resources.files("gateway.edge") / "lua"
    files = [scripts / "json.lua", *(scripts / "dialects" / f"{each}.lua" for each in ("pieces", part))]
    text = "\n".join([*(file.read_text() for file in files), f"return {', '.join(names)}"])
    found = LuaRuntime(encoding=None).execute(text.encode())
    return list(found) if isinstance(found, tuple) else [found]


def chat_request(asked: object) -> Any:
    """OpenAI's request of Anthropic's. RefusedRequestError."""
    return _request("chat_request", "chat_request", asked)


def messages_request(asked: object) -> Any:
    """Anthropic's request of OpenAI's. RefusedRequestError."""
    return _request("messages_request", "messages_request", asked)


def message_answer(answer: object) -> Any:
    """Anthropic's message of OpenAI's answer."""
    return _read(_FUNCTIONS["message_answer"](_written(answer)))


def message_error(answer: object, status: int) -> Any:
    """Anthropic's error of OpenAI's; None where it is Anthropic's already."""
    return _read(_FUNCTIONS["message_error"](_written(answer), status))


def chat_answer(message: object) -> Any:
    """OpenAI's answer of Anthropic's message."""
    return _read(_FUNCTIONS["chat_answer"](_written(message), NOW.encode()))


def chat_error(answer: object) -> Any:
    """OpenAI's error of Anthropic's; None where it is none."""
    return _read(_FUNCTIONS["chat_error"](_written(answer)))


def message_stream(chunks: Iterable[bytes]) -> bytes:
    """Anthropic's stream of OpenAI's, which comes in these pieces."""
    return _streamed(_FUNCTIONS["message_stream"](), chunks)


def chat_stream(chunks: Iterable[bytes], *, wants_usage: bool = False) -> bytes:
    """OpenAI's stream of Anthropic's, which comes in these pieces."""
    return _streamed(_FUNCTIONS["chat_stream"](NOW.encode(), wants_usage), chunks)


def decoded(literal: bytes) -> str:
    """What a JSON string literal says."""
    return str(_PIECES["decoded"](literal), "utf-8")


def is_sound_object(text: bytes) -> bool:
    """Whether the text is one JSON object."""
    return bool(_PIECES["is_sound_object"](text))


def _streamed(translate: Callable[[bytes], bytes], chunks: Iterable[bytes]) -> bytes:
    return b"".join(translate(chunk) for chunk in (*chunks, b""))


def _request(part: str, name: str, asked: object) -> Any:
    sound, answer = _ASKING[name](_written(asked))
    if not sound:
        raise RefusedRequestError(answer[b"param"].decode(), answer[b"message"].decode())
    return _read(answer)


def _written(content: object) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()


def _read(content: bytes | None) -> Any:
    return None if content is None else json.loads(content)


def _asking(part: str) -> Callable[..., Any]:
    scripts = load(part, f"function(text) local sound, answer = pcall({part}, text) return sound, answer end")
    return scripts[0]


_PIECES = {name: load("message_answer", name)[0] for name in ("decoded", "is_sound_object")}
_ASKING = {part: _asking(part) for part in ("chat_request", "messages_request")}
_FUNCTIONS = {
    name: load(part, name)[0]
    for part, names in (
        ("message_answer", ("message_answer", "message_error", "message_stream")),
        ("chat_answer", ("chat_answer", "chat_error", "chat_stream")),
    )
    for name in names
}
