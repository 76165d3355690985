"""What was done and what came of it: one line of JSON for each operation, in the order of their returns."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Result = Literal["ok", "fail", "unknown"]


@dataclass
class Operation:
    """One call. `fail` means that it certainly had no effect, `unknown` that it may have had one, now or later.

    Times are those of `time.monotonic`.
    """

    call: float
    client: str
    op: str
    args: dict[str, Any]
    ret: float = 0.0
    result: Result = "unknown"
    value: dict[str, Any] = field(default_factory=dict)

    def done(self, result: Result, **value: Any) -> None:
        self.result, self.value = result, value


class History:
    """The operations so far, in memory and in `history.jsonl`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)
        self.operations: list[Operation] = []

    @contextmanager
    def operation(self, client: str, op: str, **args: Any) -> Iterator[Operation]:
        """Records one operation, whatever becomes of it."""
        operation = Operation(time.monotonic(), client, op, args)
        try:
            yield operation
        finally:
            operation.ret = time.monotonic()
            self.operations.append(operation)
            self._file.write(json.dumps(asdict(operation)) + "\n")

    def note(self, what: str, **args: Any) -> None:
        """Something that the test did, a fault for instance."""
        with self.operation("test", what, **args) as operation:
            operation.done("ok")

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read(path: Path) -> list[Operation]:
    """The operations of a `history.jsonl`."""
    return [Operation(**json.loads(line)) for line in path.read_text().splitlines()]


def of(operations: Iterable[Operation], *ops: str) -> list[Operation]:
    """Those of some kinds, in the order of their calls."""
    return sorted((each for each in operations if each.op in ops), key=lambda each: each.call)
