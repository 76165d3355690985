"""What was worked out before and need not be again."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Value = TypeVar("Value")
Result = TypeVar("Result")


class Memo(Generic[Value, Result]):
    """Results for the values of the last call, found by which object a value is: comparing them costs as much."""

    def __init__(self, build: Callable[[Value], Result]) -> None:
        self._build = build
        self._known: dict[int, tuple[Value, Result]] = {}

    def all(self, values: Iterable[Value]) -> list[tuple[Value, Result]]:
        """Each value with its result; those of other values are forgotten."""
        # The values are kept, so no other object can have their identity.
        self._known = {id(value): self._known.get(id(value)) or (value, self._build(value)) for value in values}
        return list(self._known.values())
