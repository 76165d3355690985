"""`aiops chat`: one question to a deployed model, answered as it is generated."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, show_json

if TYPE_CHECKING:
    import httpx

    from cli.session import Session

TIMEOUT_S = 300.0
CODES = {400: Exit.USAGE, 401: Exit.REFUSED, 403: Exit.REFUSED, 404: Exit.NOT_FOUND, 503: Exit.NOT_REACHABLE}
NEXT = {
    Exit.NOT_FOUND: "see what runs with `aiops deployments ls`, or deploy it with `aiops deploy MODEL`",
    Exit.REFUSED: "run `aiops login`",
}


def chat(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a deployed model.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say to it.")],
    system: Annotated[str, typer.Option(help="Instructions before the text.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="The answer's longest length.")] = 256,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    output: Output = Format.TABLE,
) -> None:
    """Ask a deployed model; the answer appears as it is generated."""
    said = [{"role": "system", "content": system}] if system else []
    request: dict[str, object] = {
        "model": model,
        "messages": [*said, {"role": "user", "content": text}],
        "max_tokens": max_tokens,
    }
    if temperature is not None:
        request["temperature"] = temperature
    session = connect(context)
    if output is Format.JSON:
        show_json(_whole(session, request))
        return
    for piece in _pieces(session, {**request, "stream": True}):
        typer.echo(piece, nl=False)
    typer.echo()


def _whole(session: "Session", request: dict[str, object]) -> object:
    with _post(session, request) as response:
        response.read()
        return response.json()


def _pieces(session: "Session", request: dict[str, object]) -> Iterator[str]:
    """The answer's pieces from server-sent events; engines end with `[DONE]` or with the stream."""
    with _post(session, request) as response:
        for line in response.iter_lines():
            data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
            if data == "[DONE]":
                return
            if data:
                yield from _content(json.loads(data))


def _content(chunk: dict[str, Any]) -> Iterator[str]:
    if "error" in chunk:
        raise CliError(str(chunk["error"].get("message", "the model failed while answering")))
    for choice in chunk.get("choices", ()):
        yield choice.get("delta", {}).get("content") or ""


@contextmanager
def _post(session: "Session", request: dict[str, object]) -> "Iterator[httpx.Response]":
    """A POST to the chat route whose answer is read as it comes. Raises CliError for a refusal."""
    import httpx

    url = f"{session.settings.url}/v1/chat/completions"
    headers = {"authorization": f"Bearer {session.token()}"}
    try:
        with httpx.stream("POST", url, json=request, headers=headers, timeout=TIMEOUT_S) as response:
            if response.status_code != httpx.codes.OK:
                raise _refusal(response)
            yield response
    except httpx.TransportError as error:
        step = "start it with `aiops up`, or set AIOPS_URL to where it runs"
        raise CliError(f"no answer from {url}: {error}", Exit.NOT_REACHABLE, next_step=step) from error


def _refusal(response: "httpx.Response") -> CliError:
    """The error object of the OpenAI API, or whatever else was answered."""
    text = response.read().decode(errors="replace")
    try:
        message = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = text.strip() or response.reason_phrase
    code = CODES.get(response.status_code, Exit.FAILED)
    return CliError(message, code, (f"HTTP status {response.status_code}",), NEXT.get(code, ""))
