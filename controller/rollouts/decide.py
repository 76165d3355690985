"""What a rollout does next: one pure function over its state, what was seen, and the time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.rollouts.model import WHOLE, Action, Decision, Evidence, Rollout, Sight, Status

# Envoys follow a route within a second; what is asked before goes by the old share.
SETTLED = timedelta(seconds=1)
# Between the last request that a target may get and the end of its replicas.
DRAIN = timedelta(seconds=3)
# A candidate is called silent when it is less likely than this that chance alone kept requests from it.
BY_CHANCE = 0.001
# From so few requests on failures are judged: by the Wilson interval, one failure proves little.
FAILURES_FROM = 3
# From so few answers on the middle one is judged, and the slowest of twenty.
MIDDLE_FROM, SLOWEST_FROM = 5, 20
# The normal distribution's quantile for 95 %, two-sided.
_Z = 1.96


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, None to wait, and why."""

    action: Action | None
    reason: str


def decide(rollout: Rollout, sight: Sight, now: datetime) -> Verdict:
    """The next step. Missing data never raises a share; what is bad takes it back, also while the rollout pauses."""
    if rollout.status is Status.ROLLING_BACK:
        waits = rollout.weight_since + DRAIN - now
        return Verdict(None, rollout.reason) if waits > timedelta(0) else Verdict(Action.SCALE_DOWN, rollout.reason)
    if not rollout.active:
        return Verdict(None, rollout.reason)
    bad = sight.lost or (next(_faults(rollout, sight, now), "") if rollout.weight else "")
    if bad:
        return Verdict(Action.ROLL_BACK, bad)
    if rollout.status is Status.PAUSED:
        return Verdict(None, rollout.reason)
    waits_for = next(_doubts(rollout, sight, now), "")
    if waits_for:
        return Verdict(None, waits_for)
    if rollout.step < len(rollout.spec.steps):
        return Verdict(Action.ADVANCE, _good(rollout, sight))
    return Verdict(Action.PROMOTE, _good(rollout, sight))


def apply(rollout: Rollout, verdict: Verdict, sight: Sight, now: datetime) -> tuple[Rollout, Decision | None]:
    """The rollout after the verdict, and what is remembered of it; None when it only waits."""
    match verdict.action:
        case Action.ADVANCE:
            after = rollout.advance(sight, now)
        case Action.PROMOTE:
            after = rollout.promote(now)
        case Action.ROLL_BACK:
            after = rollout.roll_back(verdict.reason, now)
        case Action.SCALE_DOWN:
            after = rollout.end_roll_back(now)
        case _:
            return rollout, None
    return after, Decision(now, verdict.action, after.weight, verdict.reason, sight)


def wilson_low(failed: int, requests: int) -> float:
    """The least share of failures, in percent, that so many of so many speak for.

    The lower bound of the Wilson score interval at 95 %. Source: E. B. Wilson, "Probable inference, the law of
    succession, and statistical inference", JASA 22, 1927.
    """
    if not requests:
        return 0.0
    share, square = failed / requests, _Z * _Z
    middle = share + square / (2 * requests)
    spread = _Z * math.sqrt(share * (1 - share) / requests + square / (4 * requests * requests))
    return max(0.0, 100 * (middle - spread) / (1 + square / requests))


def _faults(rollout: Rollout, sight: Sight, now: datetime) -> Iterator[str]:
    """Why the candidate must not have its share."""
    candidate, baseline, limits = sight.candidate, rollout.baseline(sight), rollout.spec.limits
    if not candidate.live:
        yield "the candidate has no instance that may receive traffic"
    if candidate.requests >= FAILURES_FROM:
        surely = wilson_low(candidate.failed, candidate.requests)
        if surely > _error_limit(rollout, baseline):
            yield f"{candidate.failed} of {candidate.requests} requests of the candidate failed, {_beside(baseline)}"
    for what, mine, other, ratio, count, least in _latencies(rollout, candidate, baseline):
        enough = count >= least and baseline.requests >= MIDDLE_FROM
        if enough and _is_slower(mine, other, ratio, limits.latency_slack_ms):
            yield f"the candidate's {what} is {mine:.0f} ms beside {other:.0f} ms of the stable target"
    if _is_silent(rollout, sight, now):
        yield f"the candidate has answered nothing for {limits.silence.total_seconds():g} s while requests were there"


def _doubts(rollout: Rollout, sight: Sight, now: datetime) -> Iterator[str]:
    """What speaks against a larger share, or is not known yet."""
    candidate, baseline, limits = sight.candidate, rollout.baseline(sight), rollout.spec.limits
    for name, seen in ((rollout.spec.stable, sight.stable), (rollout.spec.candidate, candidate)):
        if not seen.live:
            yield f"waits for an instance of {name} that may receive traffic"
    if not rollout.step:
        if rollout.spec.steps[0].weight == WHOLE and baseline.requests < limits.min_requests:
            yield f"waits for {limits.min_requests} requests of the stable target, to compare with"
        return
    if now < rollout.weight_since + rollout.spec.steps[rollout.step - 1].hold:
        yield f"holds {rollout.weight} % for {rollout.spec.steps[rollout.step - 1].hold.total_seconds():g} s"
    for name, seen in (("candidate", candidate), ("stable target", baseline)):
        if seen.requests < limits.min_requests:
            yield f"waits for {limits.min_requests} requests of the {name}"
    if candidate.last_at is None or now - candidate.last_at > limits.silence:
        yield "waits for requests that the candidate answers now"
    if candidate.error_percent > _error_limit(rollout, baseline):
        yield "waits because the candidate's requests fail too often"
    for what, mine, other, ratio, _, _ in _latencies(rollout, candidate, baseline):
        if _is_slower(mine, other, ratio, limits.latency_slack_ms):
            yield f"waits because the candidate's {what} is too high"


def _error_limit(rollout: Rollout, baseline: Evidence) -> float:
    limits = rollout.spec.limits
    return min(limits.max_error_percent, baseline.error_percent + limits.max_error_increase_percent)


def _latencies(
    rollout: Rollout, mine: Evidence, other: Evidence
) -> Iterator[tuple[str, float, float, float, int, int]]:
    """What is compared: its name, both values, how many times as much it may be, how many answers, and the least."""
    limits, answers = rollout.spec.limits, mine.requests - mine.failed
    yield "p50 latency", mine.p50_ms, other.p50_ms, limits.max_latency_ratio, answers, MIDDLE_FROM
    yield "p95 latency", mine.p95_ms, other.p95_ms, limits.max_latency_ratio, answers, SLOWEST_FROM
    if other.streams:
        yield (
            *("p95 time to the first token", mine.first_token_p95_ms, other.first_token_p95_ms),
            *(limits.max_first_token_ratio, mine.streams, SLOWEST_FROM),
        )


def _is_slower(mine: float, other: float, ratio: float, slack_ms: int) -> bool:
    return mine > other * ratio and mine - other > slack_ms


def _is_silent(rollout: Rollout, sight: Sight, now: datetime) -> bool:
    """Whether chance does not explain that the candidate has ended no request, well or badly, for so long."""
    last = max(filter(None, (rollout.weight_since + SETTLED, sight.candidate.last_at)))
    quiet = now - last
    if rollout.baseline_is_remembered:
        # Nobody answers beside it: as many requests are expected as there were before.
        quiet -= timedelta(milliseconds=rollout.remembered.p95_ms)
        by_chance = math.exp(-rollout.remembered.per_s * max(0.0, quiet.total_seconds()))
    else:
        by_chance = (1 - rollout.weight / WHOLE) ** sight.meanwhile
    return quiet > rollout.spec.limits.silence and by_chance < BY_CHANCE


def _beside(baseline: Evidence) -> str:
    return f"beside {baseline.failed} of {baseline.requests} of the stable target"


def _good(rollout: Rollout, sight: Sight) -> str:
    if not rollout.step:
        return "both targets have instances that may receive traffic"
    seen, baseline = sight.candidate, rollout.baseline(sight)
    return (
        f"{seen.failed} of {seen.requests} requests of the candidate failed, {_beside(baseline)}; "
        f"p95 {seen.p95_ms:.0f} ms beside {baseline.p95_ms:.0f} ms"
    )
