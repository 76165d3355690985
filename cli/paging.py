"""Long lists: as many rows as wanted, fetched page by page."""

from collections.abc import Iterable
from itertools import islice
from typing import TypeVar

Row = TypeVar("Row")

ALL_HELP = "How many rows at most; 0 for all."
MORE = "there are more; use --limit 0 for all"


def at_most(limit: int, rows: Iterable[Row]) -> tuple[list[Row], bool]:
    """The first rows, and whether there are more."""
    if limit == 0:
        return list(rows), False
    taken = list(islice(rows, limit + 1))
    return taken[:limit], len(taken) > limit
