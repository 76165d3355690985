"""Limits of requests: the strictest of what all quotas say, one rule for each subject and model."""

from collections.abc import Iterable
from dataclasses import dataclass

SUBJECTS = ("api_key", "user", "organization")


@dataclass(frozen=True, slots=True, order=True)
class QuotaRule:
    """How many requests of a subject are let in; 0 is no limit. `model` is a route's first name, or a model's."""

    org_id: str
    subject: str
    subject_id: str
    model: str
    requests_per_minute: int = 0
    requests_per_hour: int = 0
    requests_per_day: int = 0

    @property
    def limits(self) -> tuple[int, int, int]:
        """Of a minute, an hour and a day."""
        return self.requests_per_minute, self.requests_per_hour, self.requests_per_day

    def flaw(self) -> str:
        """Why it cannot be kept to, beginning with the field at fault; empty when it can."""
        if self.subject not in SUBJECTS:
            return f"subject is {self.subject!r}"
        missing = [name for name in ("org_id", "subject_id") if not getattr(self, name)]
        return f"{missing[0]} is missing" if missing else ""


def compile_quotas(wanted: Iterable[QuotaRule]) -> tuple[QuotaRule, ...]:
    """The rules, the same for the same quotas in any order. What limits no requests, or nobody, is left out."""
    strictest: dict[tuple[str, str, str, str], QuotaRule] = {}
    for rule in wanted:
        if not rule.flaw() and any(rule.limits):
            who = (rule.org_id, rule.subject, rule.subject_id, rule.model)
            known = strictest.get(who, rule)
            limits = (min(filter(None, both), default=0) for both in zip(known.limits, rule.limits, strict=True))
            strictest[who] = QuotaRule(*who, *limits)
    return tuple(strictest[who] for who in sorted(strictest))
