"""Lines of a batch's file: what a request must say, and how an answer is written. The format is OpenAI's."""

import json
from typing import Any

from controller.batches.model import MIB, MOST_ERRORS, MOST_LINES, Line, LineFault

LONGEST_LINE = 16 * MIB
LONGEST_ID = 512


class Reader:
    """Takes the file's bytes in any pieces, and finds its requests and what is wrong with them."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._rest = bytearray()
        self._offset = 0
        self._seen: dict[str, int] = {}
        self._number = 0
        self.lines: list[Line] = []
        self.faults: list[LineFault] = []

    @property
    def is_done(self) -> bool:
        """Whether reading on would say nothing new."""
        return len(self.faults) >= MOST_ERRORS

    def feed(self, content: bytes) -> None:
        """The next bytes."""
        self._rest += content
        while (end := self._rest.find(b"\n")) >= 0:
            self._take(bytes(self._rest[:end]), end + 1)
            del self._rest[: end + 1]
        if len(self._rest) > LONGEST_LINE:
            self._number += 1
            self._fault("line_too_long", f"the line is longer than {LONGEST_LINE // MIB} MiB")
            self._rest.clear()

    def finish(self) -> None:
        """There are no more bytes."""
        if self._rest:
            self._take(bytes(self._rest), len(self._rest))
        if not self.lines and not self.faults:
            self.faults.append(LineFault("empty_file", "the file has no requests"))

    def _take(self, raw: bytes, length: int) -> None:
        self._number += 1
        offset, self._offset = self._offset, self._offset + length
        if not raw.strip() or self.is_done:
            return
        if len(self.lines) >= MOST_LINES:
            self._fault("too_many_requests", f"a batch has at most {MOST_LINES} requests")
            return
        custom_id, complaint = _read(raw, self._endpoint)
        if complaint:
            self._fault(*complaint)
            return
        if custom_id in self._seen:
            self._fault("duplicate_custom_id", f"line {self._seen[custom_id]} has this custom_id too", "custom_id")
            return
        self._seen[custom_id] = self._number
        self.lines.append(Line(self._number, custom_id, offset, len(raw)))

    def _fault(self, code: str, message: str, param: str = "") -> None:
        if not self.is_done:
            self.faults.append(LineFault(code, message, param, self._number))


def _read(raw: bytes, endpoint: str) -> tuple[str, tuple[str, ...]]:
    """The request's custom_id, and what is wrong with the line: a code, a text, and the parameter."""
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        return "", ("invalid_json_line", "the line is no JSON")
    if not isinstance(said, dict):
        return "", ("invalid_json_line", "the line is no JSON object")
    custom_id, body = said.get("custom_id"), said.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= LONGEST_ID:
        return "", ("invalid_custom_id", f"custom_id is no text of 1 to {LONGEST_ID} characters", "custom_id")
    if said.get("method") != "POST":
        return "", ("invalid_method", "method is not POST", "method")
    if said.get("url") != endpoint:
        return "", ("invalid_url", f"url is not {endpoint}, the batch's endpoint", "url")
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return "", ("invalid_request", "body is no object with a model", "body.model")
    if body.get("stream"):
        return "", ("invalid_request", "a batch answers whole: leave stream out", "body.stream")
    return custom_id, ()


def body_of(raw: bytes) -> bytes:
    """What is sent for a line."""
    return json.dumps(json.loads(raw)["body"], ensure_ascii=False).encode()


def answered(line_id: str, custom_id: str, status: int, request_id: str, body: bytes) -> str:
    """The line of an answer, whatever it says."""
    try:
        content: Any = json.loads(body)
    except ValueError:
        content = body.decode(errors="replace")
    response = {"status_code": status, "request_id": request_id, "body": content}
    return _written(line_id, custom_id, response, None)


def unanswered(line_id: str, custom_id: str, code: str, message: str) -> str:
    """The line of a request that got no answer."""
    return _written(line_id, custom_id, None, {"code": code, "message": message})


def _written(line_id: str, custom_id: str, response: object, error: object) -> str:
    line = {"id": line_id, "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))
