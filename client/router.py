"""Chooses models for tasks and calls them, over the platform's REST and OpenAI routes."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx

# What a payload is sent to, by the member that it has.
ENDPOINTS = {"messages": "/v1/chat/completions", "prompt": "/v1/completions", "input": "/v1/embeddings"}
_ASKED = ("task_type", "complexity", "preferred_model", "max_tokens")


class RouterError(Exception):
    """The platform refused; `status` is that of the HTTP answer and `reason` the platform's own word for why."""

    def __init__(self, status: int, message: str, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Router:
    """Which model a task is for, and the model's answer.

    `url` is the gateway's; `token` an API key or access token. Use it as a context manager, or `close` it.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = 600.0) -> None:
        headers = {"authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, trust_env=False)

    def __enter__(self) -> "Router":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    def route(self, request: Mapping[str, Any]) -> str:
        """The model for `{"task_type": …, "complexity": …, "preferred_model": …}`; every key may be missing."""
        return str(self.explain(request)["model"])

    def explain(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The whole decision: the rule that chose the model, its targets, and what was passed over and why."""
        asked = {name: value for name in _ASKED if (value := request.get(name)) is not None}
        return self._call("POST", "/routing/route", asked)

    def invoke_model(self, model: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The model's answer to an OpenAI request without its `model`: messages, a prompt or an input."""
        path = next((path for member, path in ENDPOINTS.items() if member in payload), None)
        if path is None:
            raise ValueError(f"the payload has none of {', '.join(ENDPOINTS)}")
        return self._call("POST", path, {**payload, "model": model})

    def configure(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Sets the organisation's rules from `routing_rules` (task to model), `default_model` and `fallback_model`."""
        rules = [{"task_type": task, "model": model} for task, model in config.get("routing_rules", {}).items()]
        defaults = {name: config.get(name, "") for name in ("default_model", "fallback_model")}
        return self._call("PUT", "/routing/rules", {"rules": rules, **defaults})

    def _call(self, verb: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._client.request(verb, path, json=body)
        if answer.is_error:
            raise _refusal(answer)
        content: dict[str, Any] = answer.json()
        return content


def _refusal(answer: httpx.Response) -> RouterError:
    """What went wrong, from google.rpc.Status or OpenAI's error object."""
    try:
        content = answer.json()
    except ValueError:
        content = {}
    said = content.get("error", content) if isinstance(content, dict) else {}
    details = said.get("details") or [{}]
    reason = str(details[0].get("reason") or said.get("code") or "")
    return RouterError(answer.status_code, str(said.get("message") or answer.reason_phrase), reason)
