"""A quota: whose use is limited, and by what."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import NewType

from controller.quotas.windows import Period, Window
from mesh.errors import DomainError, FieldViolation, InvalidRequestError, Kind
from mesh.identity import OrgId, UserId

QuotaId = NewType("QuotaId", str)

# What fits a header as it is.
NAME = re.compile(r"[!-~]{1,255}")
BUDGET_PERIODS = (Period.DAY, Period.MONTH, Period.TOTAL)
MOST_MONEY = Decimal(10) ** 15
FINEST = -30


class Subject(Enum):
    """Whose requests count."""

    API_KEY = "api_key"
    USER = "user"
    ORGANIZATION = "organization"


class Measure(Enum):
    """What is counted of them."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    COST = "cost"


class QuotaNotFoundError(DomainError):
    """There is no such quota, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "QUOTA_NOT_FOUND"

    def __init__(self, quota_id: str) -> None:
        super().__init__(f"there is no quota {quota_id}", quota_id=quota_id)


class QuotaChangedError(DomainError):
    """Somebody else changed the quota since the caller read it."""

    kind, reason = Kind.ABORTED, "QUOTA_CHANGED"

    def __init__(self, quota: "Quota") -> None:
        super().__init__(
            f"{quota.quota_id} is at version {quota.version} by now; read it again and repeat the change",
            quota_id=quota.quota_id,
            version=str(quota.version),
        )


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a quota; its name is the contract's field."""

    name: str
    measure: Measure
    period: Period
    amount: Decimal

    @property
    def key(self) -> tuple[Measure, Period]:
        """What has to be counted for it."""
        return self.measure, self.period


@dataclass(frozen=True, slots=True)
class Budget:
    """Money, a decimal number; empty is no limit."""

    amount: str = ""
    period: Period = Period.MONTH


@dataclass(frozen=True, slots=True)
class Limits:
    """As the contract has them; 0 and empty are no limit."""

    requests_per_minute: int = 0
    requests_per_hour: int = 0
    requests_per_day: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    budget: Budget = field(default_factory=Budget)

    def every(self) -> Iterator[Limit]:
        """Those that are set."""
        for each in fields(self)[:-1]:
            if amount := getattr(self, each.name):
                measure, _, period = each.name.partition("_per_")
                yield Limit(each.name, Measure(measure), Period(period), Decimal(amount))
        if self.budget.amount:
            yield Limit("budget", Measure.COST, self.budget.period, Decimal(self.budget.amount))

    def check(self) -> None:
        """Raises InvalidRequestError naming the fields at fault."""
        faults = list(self._faults())
        if faults:
            raise InvalidRequestError(*faults)

    def _faults(self) -> Iterator[FieldViolation]:
        if self.budget.amount and not _is_money(self.budget.amount):
            yield FieldViolation("limits.budget.amount", "must be a decimal number greater than 0, such as 25.00")
        elif not any(self.every()):
            yield FieldViolation("limits", "must have one that is not 0")
        if self.budget.period not in BUDGET_PERIODS:
            yield FieldViolation("limits.budget.period", "must be day, month or total")


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of what one subject uses, of one model or of all together. `imposed` is for universe roles to change."""

    quota_id: QuotaId
    org_id: OrgId
    user_id: UserId
    created_at: datetime
    changed_at: datetime
    subject: Subject
    subject_id: str
    model: str
    limits: Limits
    imposed: bool = False
    version: int = 1
    deleted_at: datetime | None = None

    def change(self, limits: Limits, now: datetime) -> "Quota":
        """Other limits."""
        limits.check()
        return replace(self, limits=limits, changed_at=now, version=self.version + 1)

    def delete(self, now: datetime) -> "Quota":
        """Nothing is limited by it any more."""
        if self.deleted_at is not None:
            return self
        return replace(self, deleted_at=now, changed_at=now, version=self.version + 1)

    @property
    def whose(self) -> str:
        """In words."""
        of = f" for model {self.model}" if self.model else ""
        return f"{self.subject.value.replace('_', ' ')} {self.subject_id}{of}"


@dataclass(frozen=True, slots=True)
class Used:
    """What was used of one limit in the window that is open."""

    limit: Limit
    window: Window
    amount: Decimal

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left."""
        return self.amount >= self.limit.amount


@dataclass(frozen=True, slots=True)
class QuotaChanged:
    """A quota was made, changed or deleted."""

    quota: Quota
    at: datetime


@dataclass(frozen=True, slots=True)
class BudgetReached:
    """A share of a budget was passed."""

    quota: Quota
    percent: int
    spent: Decimal
    budget: Decimal
    renewed_at: datetime | None
    at: datetime


def _is_money(text: str) -> bool:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        return False
    exponent = amount.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= FINEST and 0 < amount < MOST_MONEY
