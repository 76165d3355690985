"""A flag: its variants, who gets which, and what makes no sense of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from mesh.errors import DomainError, FieldViolation, InvalidRequestError, Kind
from mesh.identity import OrgId, UserId


class FlagNotFoundError(DomainError):
    """The organisation has no such flag."""

    kind, reason = Kind.NOT_FOUND, "FLAG_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no flag {name}", name=name)


@dataclass(frozen=True, slots=True)
class Rule:
    """Who gets a variant. Without users and organisations everybody does, of whom `percent` count; 0 is all."""

    variant: str
    user_ids: tuple[str, ...] = ()
    org_ids: tuple[str, ...] = ()
    percent: float = 0.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a flag. Values of variants are those of JSON."""

    name: str
    variants: Mapping[str, Any]
    default_variant: str
    rules: tuple[Rule, ...] = ()
    description: str = ""
    disabled: bool = False

    def check(self) -> None:
        """Raises InvalidRequestError that names every field at fault."""
        found = list(self._faults())
        if found:
            raise InvalidRequestError(*found)

    def _faults(self) -> Iterator[FieldViolation]:
        kinds = {_kind(value) for value in self.variants.values()}
        if len(kinds) != 1 or "" in kinds:
            yield FieldViolation("variants", "must all be booleans, all strings, all numbers or all objects")
        known = ", ".join(sorted(self.variants))
        if self.default_variant not in self.variants:
            yield FieldViolation("default_variant", f"{self.default_variant!r} is none of {known}")
        for number, rule in enumerate(self.rules):
            if rule.variant not in self.variants:
                yield FieldViolation(f"rules[{number}].variant", f"{rule.variant!r} is none of {known}")


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of an organisation."""

    org_id: OrgId
    user_id: UserId
    changed_at: datetime
    wish: Wish
    version: int = 1

    def change(self, wish: Wish, user_id: UserId, now: datetime) -> "Flag":
        """Something else is wanted."""
        if wish == self.wish:
            return self
        return replace(self, wish=wish, user_id=user_id, changed_at=now, version=self.version + 1)


@dataclass(frozen=True, slots=True)
class FlagChanged:
    """A flag was made, changed or deleted."""

    flag: Flag
    at: datetime
    is_deleted: bool = False


def _kind(value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case str():
            return "string"
        case int() | float():
            return "number"
        case dict():
            return "object"
    return ""
