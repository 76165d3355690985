"""How many replicas a set is to have by its load: one pure function over what is seen, what is asked and the time."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any

# So far from its target, in either direction, a load changes nothing.
TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """What is asked. A target of 0 is not looked at; `min_replicas` 0 lets the model sleep."""

    min_replicas: int
    max_replicas: int
    target_concurrency: float = 0.0
    target_queue: float = 0.0
    target_tokens_per_second: float = 0.0
    scale_up_seconds: int = 3
    scale_down_seconds: int = 120
    cooldown_seconds: int = 10
    idle_seconds: int = 300
    hold_seconds: int = 120
    warm_replicas: int = 0

    @property
    def sleepy(self) -> bool:
        """Whether there may be no replica at all."""
        return self.min_replicas == 0


@dataclass(frozen=True, slots=True)
class Signals:
    """What is seen of a set, over all of its replicas; None is what is not known now.

    `held` requests wait for a first replica. `idle` is the time since the last request.
    """

    in_flight: int | None = None
    held: int = 0
    queued: int | None = None
    tokens_per_second: float | None = None
    idle: timedelta | None = None


@dataclass(frozen=True, slots=True)
class ScalingState:
    """What must be remembered between two looks. Any controller goes on with it.

    `above_since`: from then on more were wanted at every look, at least `above`; `below` accordingly.
    """

    above_since: datetime | None = None
    above: int = 0
    below_since: datetime | None = None
    below: int = 0
    scaled_at: datetime | None = None
    scaled_from: int = 0
    scaled_to: int = 0
    scaled_why: str = ""
    explanation: str = ""
    # Of each deployment: tokens that it had generated, when that was seen (Unix seconds), and how many a second.
    tokens: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    # Deployments that are kept warm: no requests are led to them.
    standby: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """The state in JSON."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(self).items()
        }

    @staticmethod
    def read(row: Mapping[str, Any]) -> "ScalingState":
        """The state from JSON that any version wrote."""
        known = {each.name: row[each.name] for each in fields(ScalingState) if each.name in row}
        for name in ("above_since", "below_since", "scaled_at"):
            known[name] = datetime.fromisoformat(known[name]) if known.get(name) else None
        known["standby"] = tuple(known.get("standby", ()))
        known["tokens"] = {name: tuple(value) for name, value in known.get("tokens", {}).items()}
        return ScalingState(**known)


@dataclass(frozen=True, slots=True)
class Decision:
    """How many there are to be, why, and what to remember."""

    replicas: int
    state: ScalingState


def decide(asked: Autoscaling, state: ScalingState, seen: Signals, now_there: int, now: datetime) -> Decision:
    """How many replicas there are to be, between the bounds.

    More are wanted as soon as that was so at every look for `scale_up_seconds`, fewer accordingly; a look without a
    signal that is needed starts the wait for fewer anew. Whatever changes is not changed again within the cooldown.
    Falling asleep and waking need no such waits: the one waits for idleness, the other for nothing.
    """
    wanted, why = _wanted(asked, seen, now_there)
    held_back = min(max(now_there, asked.min_replicas), asked.max_replicas)
    if held_back != now_there:
        bounds = f"the bounds are {asked.min_replicas} and {asked.max_replicas}"
        return _change(state, now_there, held_back, bounds, now)
    if (wanted == 0) != (now_there == 0):
        return _change(state, now_there, wanted, why, now)
    state = _remembered(state, wanted, now_there, now)
    rests = state.scaled_at is not None and now - state.scaled_at < timedelta(seconds=asked.cooldown_seconds)
    if not rests and _is_over(state.above_since, asked.scale_up_seconds, now):
        return _change(state, now_there, state.above, why, now)
    if not rests and _is_over(state.below_since, asked.scale_down_seconds, now):
        return _change(state, now_there, state.below, why, now)
    return Decision(now_there, replace(state, explanation=_waiting(asked, state, why, wanted, now_there, rests=rests)))


def _wanted(asked: Autoscaling, seen: Signals, now_there: int) -> tuple[int, str]:
    """How many this one look asks for, and why."""
    if asked.sleepy and seen.held == 0:
        if now_there == 0:
            # What is still open ends where it is.
            return 0, "asleep until somebody asks"
        idle = seen.idle is not None and seen.idle >= timedelta(seconds=asked.idle_seconds)
        if idle and seen.in_flight == 0:
            return 0, f"nobody asked for {asked.idle_seconds} s"
    needs = list(_needs(asked, seen, now_there))
    most, why = max(needs, default=(0, ""))
    missing = [name for name, _, value in _watched(asked, seen) if value is None]
    if missing and most < now_there:
        most, why = now_there, f"{' and '.join(missing)} not known now, so nothing is taken away"
    if not _watched(asked, seen):
        most, why = now_there, "no target is set"
    if seen.held and now_there == 0:
        why = f"{seen.held} requests wait for it to wake"
    least = max(asked.min_replicas, 1)
    return min(max(most, least), asked.max_replicas), why


def _watched(asked: Autoscaling, seen: Signals) -> list[tuple[str, float, float | None]]:
    open_ones = None if seen.in_flight is None else seen.in_flight + seen.held
    every = [
        ("requests in flight", asked.target_concurrency, open_ones),
        ("requests in the engines' queues", asked.target_queue, seen.queued),
        ("tokens a second", asked.target_tokens_per_second, seen.tokens_per_second),
    ]
    return [each for each in every if each[1]]


def _needs(asked: Autoscaling, seen: Signals, now_there: int) -> Iterator[tuple[int, str]]:
    for name, target, value in _watched(asked, seen):
        if value is None:
            continue
        near = now_there > 0 and abs(value / (target * now_there) - 1) <= TOLERANCE
        need = now_there if near else math.ceil(value / target)
        yield need, f"{value:g} {name} over {target:g} each make {need}"


def _remembered(state: ScalingState, wanted: int, now_there: int, now: datetime) -> ScalingState:
    if wanted > now_there:
        above = min(state.above, wanted) if state.above_since else wanted
        return replace(state, above_since=state.above_since or now, above=above, below_since=None, below=0)
    if wanted < now_there:
        below = max(state.below, wanted) if state.below_since else wanted
        return replace(state, below_since=state.below_since or now, below=below, above_since=None, above=0)
    return replace(state, above_since=None, above=0, below_since=None, below=0)


def _is_over(since: datetime | None, seconds: int, now: datetime) -> bool:
    return since is not None and now - since >= timedelta(seconds=seconds)


def _change(state: ScalingState, before: int, after: int, why: str, now: datetime) -> Decision:
    fresh = replace(
        ScalingState(tokens=state.tokens, standby=state.standby),
        scaled_at=now,
        scaled_from=before,
        scaled_to=after,
        scaled_why=why,
        explanation=why,
    )
    return Decision(after, fresh)


def _waiting(asked: Autoscaling, state: ScalingState, why: str, wanted: int, now_there: int, *, rests: bool) -> str:
    """In words that stay the same while nothing changes: they are kept with the set."""
    if wanted == now_there:
        return f"stays at {now_there}" if why.startswith(("no target", "asleep")) is False else why
    if rests:
        return f"{wanted} are wanted instead of {now_there}, but the last change is less than the cooldown ago"
    seconds = asked.scale_up_seconds if wanted > now_there else asked.scale_down_seconds
    return f"{wanted} are wanted instead of {now_there}, which must hold for {seconds} s"
