"""Pages of a list: opaque tokens over a keyset, as AIP-158 has them."""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Column, Select, bindparam, tuple_

from mesh.errors import InvalidPageTokenError

Item = TypeVar("Item")
DEFAULT_PAGE_SIZE = 50
LARGEST_PAGE = 1000


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What a list call asks for. `size` 0 means 50; `token` is empty for the first page."""

    size: int = 0
    token: str = ""

    @property
    def limit(self) -> int:
        """Rows on the page: 1 to 1000."""
        return min(self.size or DEFAULT_PAGE_SIZE, LARGEST_PAGE)


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items, and the token of the page after them (empty on the last)."""

    items: tuple[Item, ...]
    next_token: str


Row = TypeVar("Row", bound=tuple[Any, ...])


class Keyset:
    """Newest first by `created_at`, then by id; a token is bound to the filters it was made with."""

    def __init__(self, created_at: Column[datetime], identity: Column[str], *filters: object) -> None:
        self._created_at = created_at
        self._identity = identity
        self._scope = _scope_of(filters)

    def prepare(self, query: "Select[Row]", *, later: bool) -> "Select[Row]":
        """The query for one page as a statement to keep and to run with `parameters`: building one costs more than
        running it, so the lists that matter build theirs once. `later` for a page behind a token."""
        ordered = query.order_by(self._created_at.desc(), self._identity.desc()).limit(bindparam("page_limit"))
        if not later:
            return ordered
        cursor = tuple_(bindparam("page_moment", type_=self._created_at.type), bindparam("page_identity"))
        return ordered.where(tuple_(self._created_at, self._identity) < cursor)

    def parameters(self, page: PageRequest) -> dict[str, object]:
        """What a prepared query needs to know of the page."""
        if not page.token:
            return {"page_limit": page.limit + 1}
        moment, identity = self._decode(page.token)
        return {"page_limit": page.limit + 1, "page_moment": moment, "page_identity": identity}

    def apply(self, query: "Select[Row]", page: PageRequest) -> "Select[Row]":
        """The query for one page, with one row more to see whether another page follows."""
        ordered = query.order_by(self._created_at.desc(), self._identity.desc()).limit(page.limit + 1)
        if not page.token:
            return ordered
        return ordered.where(tuple_(self._created_at, self._identity) < self._decode(page.token))

    def page(self, rows: Sequence[Any], page: PageRequest, read: Callable[[Any], Item]) -> Page[Item]:
        """The page that the rows of `apply`'s query make."""
        shown = rows[: page.limit]
        more = len(rows) > page.limit
        return Page(tuple(read(row) for row in shown), self._encode(shown[-1]) if more else "")

    def _encode(self, row: Any) -> str:
        mapping = row._mapping
        return _token_of(self._scope, mapping[self._created_at.name].isoformat(), mapping[self._identity.name])

    def _decode(self, token: str) -> tuple[datetime, str]:
        try:
            scope, created_at, identity = _cursor_of(token)
            moment = datetime.fromisoformat(created_at)
        except (ValueError, TypeError) as error:
            raise InvalidPageTokenError("page_token is not one this list made; start again without it") from error
        if scope != self._scope or not isinstance(identity, str) or moment.tzinfo is None:
            raise InvalidPageTokenError("page_token was made with other filters; start again without it")
        return moment, identity


class Countdown:
    """Highest first by a number that is unique under the filters."""

    def __init__(self, number: Column[int], *filters: object) -> None:
        self._number = number
        self._scope = _scope_of(filters)

    def apply(self, query: "Select[Row]", page: PageRequest) -> "Select[Row]":
        """The query for one page, with one row more to see whether another page follows."""
        ordered = query.order_by(self._number.desc()).limit(page.limit + 1)
        return ordered.where(self._number < self._decode(page.token)) if page.token else ordered

    def page(self, rows: Sequence[Any], page: PageRequest, read: Callable[[Any], Item]) -> Page[Item]:
        """The page that the rows of `apply`'s query make."""
        shown = rows[: page.limit]
        more = len(rows) > page.limit
        last = _token_of(self._scope, shown[-1]._mapping[self._number.name]) if more else ""
        return Page(tuple(read(row) for row in shown), last)

    def _decode(self, token: str) -> int:
        return _number_of(token, self._scope)


class Offsets:
    """Pages of what has no rows of its own, such as sums: a token says how many were shown, under which filters."""

    def __init__(self, *filters: object) -> None:
        self._scope = _scope_of(filters)

    def start(self, page: PageRequest) -> int:
        """How many to pass over. Raises InvalidPageTokenError."""
        if not page.token:
            return 0
        return _number_of(page.token, self._scope)

    def page(self, items: Sequence[Item], page: PageRequest) -> Page[Item]:
        """The page that items make of which one more was read than fits."""
        token = _token_of(self._scope, self.start(page) + page.limit) if len(items) > page.limit else ""
        return Page(tuple(items[: page.limit]), token)


def _number_of(token: str, wanted_scope: str) -> int:
    """The number that a token carries. Raises InvalidPageTokenError."""
    try:
        scope, number = _cursor_of(token)
    except (ValueError, TypeError) as error:
        raise InvalidPageTokenError("page_token is not one this list made; start again without it") from error
    if scope != wanted_scope or not isinstance(number, int) or not 0 <= number < 2**31:
        raise InvalidPageTokenError("page_token was made with other filters; start again without it")
    return number


def _scope_of(filters: Sequence[object]) -> str:
    """What binds a token to the filters of its list."""
    return hashlib.sha256(json.dumps([str(each) for each in filters]).encode()).hexdigest()[:12]


def _token_of(*cursor: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode().rstrip("=")


def _cursor_of(token: str) -> Any:
    """What `_token_of` was given. ValueError or TypeError for what is no token."""
    return json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
