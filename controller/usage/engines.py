"""What engines counted themselves, and how counters that begin anew add up."""

from dataclasses import dataclass
from datetime import datetime

from controller.usage.model import UsageFilter


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens and requests; None is what the engine does not count."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    requests: int | None = None


@dataclass(frozen=True, slots=True)
class Counters:
    """What an engine had counted when it was last heard.

    `epoch` numbers the deployment's placements and `started_at` is when the engine's process began: another of either
    is another engine, which counts from zero.
    """

    epoch: int
    started_at: datetime | None
    counted: Counted


def grown(last: Counters | None, said: Counters, midnight: datetime) -> Counted | None:
    """What the engine counted since it was last heard; None when that is of an earlier placement, which comes late.

    A counter that fell began anew without saying so. Of an engine that nobody heard before and that did not start since
    `midnight`, the day's part is not known: it counts from now on.
    """
    if last is None:
        earlier = said.started_at is not None and said.started_at < midnight
        return _less(said.counted, said.counted) if earlier else said.counted
    if said.epoch < last.epoch:
        return None
    same = (said.epoch, said.started_at) == (last.epoch, last.started_at)
    return _less(said.counted, last.counted) if same and not _fell(last.counted, said.counted) else said.counted


def _fell(before: Counted, after: Counted) -> bool:
    return any(old is not None and new is not None and new < old for old, new in _pairs(before, after))


def _less(after: Counted, before: Counted) -> Counted:
    return Counted(*(None if new is None else new - (old or 0) for old, new in _pairs(before, after)))


def _pairs(before: Counted, after: Counted) -> tuple[tuple[int | None, int | None], ...]:
    return (
        (before.input_tokens, after.input_tokens),
        (before.output_tokens, after.output_tokens),
        (before.requests, after.requests),
    )


@dataclass(frozen=True, slots=True)
class DaysWanted:
    """Which days, UTC; what is empty does not narrow."""

    deployment_id: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def requests(self) -> UsageFilter:
        """The requests of these days."""
        return UsageFilter(deployment_id=self.deployment_id, since=self.since, until=self.until)


@dataclass(frozen=True, slots=True)
class ReconciledDay:
    """A deployment's day, once as the ledger has it and once as its engine counted, heard `since` on that day.

    `ledger_counted` are the requests whose tokens the ledger knows.
    """

    day: datetime
    deployment_id: str
    since: datetime | None
    ledger_requests: int
    ledger_counted: int
    ledger_input_tokens: int
    ledger_output_tokens: int
    engine: Counted

    @property
    def difference(self) -> Counted:
        """The engine's less the ledger's; None where the engine does not count."""
        ledger = Counted(self.ledger_input_tokens, self.ledger_output_tokens, self.ledger_requests)
        return _less(self.engine, ledger)
