"""What gateways and engines say of the load of replica sets, and what it adds up to."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

# A gateway reports every second. One that is silent for longer is missing; one that stays silent is gone.
MISSING_AFTER, GONE_AFTER = timedelta(seconds=5), timedelta(seconds=60)
# Tokens are counted over at least so long: nodes say every few seconds how many there were.
RATED_OVER = timedelta(seconds=4)
# An engine that generated nothing new for so long generates nothing.
QUIET_AFTER = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class SetLoad:
    """The requests to one set that one gateway sees; `idle` is the time since it saw the last one."""

    replica_set_id: str
    in_flight: int
    held: int
    idle: timedelta


@dataclass(frozen=True, slots=True)
class Reported:
    """A gateway's load of a set, and how long ago it was said."""

    load: SetLoad
    age: timedelta


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests to a set, through all gateways; None is what is not known now."""

    in_flight: int | None
    held: int
    idle: timedelta | None


def traffic_of(reports: Sequence[Reported]) -> Traffic:
    """What the reports add up to. One missing gateway makes idleness unknown, and the number of requests."""
    there = [each for each in reports if each.age <= GONE_AFTER]
    fresh = [each.load for each in there if each.age <= MISSING_AFTER]
    held = sum(each.held for each in fresh)
    if not fresh or len(fresh) < len(there):
        return Traffic(None, held, None)
    return Traffic(sum(each.in_flight for each in fresh), held, min(each.idle for each in fresh))


Tokens = Mapping[str, tuple[float, float, float]]


def rated(before: Tokens, counted: Mapping[str, float], running: Collection[str], now: datetime) -> Tokens:
    """Of each engine that runs: its tokens, when they were seen, and how many a second it generates.

    An engine that started anew counts from zero again.
    """
    return {name: _rated(before.get(name), counted[name], now.timestamp()) for name in running if name in counted}


def _rated(last: tuple[float, float, float] | None, count: float, now: float) -> tuple[float, float, float]:
    if last is None or count < last[0]:
        return count, now, 0.0
    seen, at, rate = last
    if count == seen:
        return (seen, at, 0.0) if rate and now - at >= QUIET_AFTER.total_seconds() else last
    return (count, now, (count - seen) / (now - at)) if now - at >= RATED_OVER.total_seconds() else last
