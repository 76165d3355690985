"""What a rollout does next, from what was seen: by examples, and whatever happens in whatever order."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controller.rollouts.decide import apply, decide, wilson_low
from controller.rollouts.model import (
    Action,
    Evidence,
    Limits,
    Rollout,
    RolloutEndedError,
    RolloutId,
    Sight,
    Spec,
    Status,
    Step,
)
from controller.routing.model import Route, RouteId, Target, Wish
from mesh.identity import OrgId, UserId

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOLD = timedelta(seconds=30)


def a_rollout(*weights: int, **more: Any) -> Rollout:
    spec = Spec("route-1", "new", "old", tuple(Step(weight, HOLD) for weight in weights), **more)
    ids = (RolloutId("rollout-1"), OrgId("org-a"), UserId("user-1"))
    return Rollout(*ids, NOON, NOON, RouteId("route-1"), "fast", spec, weight_since=NOON)


def seen(now: datetime, requests: int = 100, failed: int = 0, ms: float = 100, **more: Any) -> Evidence:
    usual = Evidence(requests, failed, requests / 10, ms, ms * 2, last_at=now if requests else None, live=True)
    return replace(usual, **more)


def at_step(*weights: int, **more: Any) -> Rollout:
    """A rollout whose first step has begun at noon."""
    return a_rollout(*weights, **more).advance(Sight(seen(NOON), seen(NOON)), NOON)


LATER = NOON + HOLD + timedelta(seconds=2)


def test_a_good_candidate_takes_every_step_and_is_promoted() -> None:
    rollout, now, weights = a_rollout(10, 50), NOON, []
    while rollout.active:
        sight = Sight(seen(now), seen(now))
        after, decision = apply(rollout, decide(rollout, sight, now), sight, now)
        assert decision is None or decision.sight == sight
        rollout, now = after, now + timedelta(seconds=10)
        weights.append(rollout.weight)
    assert rollout.status is Status.PROMOTED
    assert sorted(set(weights)) == [10, 50, 100]
    assert weights == sorted(weights)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"failed": 30}, "30 of 100 requests of the candidate failed"),
    ({"requests": 3, "failed": 3}, "3 of 3"),
    ({"p50_ms": 400}, "p50 latency is 400 ms beside 100 ms"),
    ({"p95_ms": 900}, "p95 latency is 900 ms beside 200 ms"),
    ({"live": False}, "no instance"),
    ({"requests": 0, "last_at": None}, "answered nothing for 10 s"),
    ({"streams": 50, "first_token_p95_ms": 500}, "first token is 500 ms beside 100 ms"),
]


@pytest.mark.parametrize(("fault", "why"), BAD, ids=[why for _, why in BAD])
@pytest.mark.parametrize("paused", [False, True])
def test_a_bad_candidate_is_rolled_back_at_once_also_while_it_is_paused(
    fault: dict[str, Any], why: str, paused: bool
) -> None:
    now = NOON + timedelta(seconds=12)
    rollout = at_step(10).pause(now) if paused else at_step(10)
    stable = seen(now, streams=50, first_token_p95_ms=100)
    verdict = decide(rollout, Sight(stable, seen(now, **fault), meanwhile=100), now)
    assert verdict.action is Action.ROLL_BACK
    assert why in verdict.reason


UNKNOWN: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"requests": 19}, "20 requests of the candidate"),
    ({"requests": 19}, {}, "20 requests of the stable target"),
    ({"live": False}, {}, "an instance of old"),
    ({}, {"failed": 8}, "fail too often"),
    ({}, {"last_at": NOON}, "requests that the candidate answers now"),
]


@pytest.mark.parametrize(("stable", "candidate", "why"), UNKNOWN, ids=[why for _, _, why in UNKNOWN])
def test_what_is_not_known_raises_nothing(stable: dict[str, Any], candidate: dict[str, Any], why: str) -> None:
    sight = Sight(seen(LATER, **stable), seen(LATER, **candidate))
    verdict = decide(at_step(10, 50), sight, LATER)
    assert verdict.action is None
    assert why in verdict.reason


def test_a_candidate_that_gets_nothing_by_chance_is_not_called_silent() -> None:
    now = NOON + timedelta(seconds=12)
    none = seen(now, requests=0, last_at=None)
    # At 1 % it is likely that none of a hundred was for it; that none of a thousand was, is not.
    for meanwhile, action in ((100, None), (1000, Action.ROLL_BACK)):
        assert decide(at_step(1), Sight(seen(now), none, meanwhile=meanwhile), now).action is action
    # Without any traffic nothing is known, for however long.
    assert decide(at_step(1), Sight(seen(now, requests=0), none), now + timedelta(days=1)).action is None


def test_blue_green_waits_for_something_to_compare_with_and_compares_with_it_afterwards() -> None:
    rollout = a_rollout(100)
    idle = Sight(seen(NOON, requests=0), seen(NOON, requests=0))
    assert "to compare with" in decide(rollout, idle, NOON).reason
    sight = Sight(seen(NOON), seen(NOON, requests=0))
    whole, _ = apply(rollout, decide(rollout, sight, NOON), sight, NOON)
    assert (whole.weight, whole.remembered) == (100, sight.stable)
    alone = Evidence(live=True)
    slow = Sight(alone, seen(LATER, p50_ms=900))
    assert decide(whole, slow, LATER).action is Action.ROLL_BACK
    quiet = Sight(alone, Evidence(live=True))
    assert decide(whole, quiet, LATER).action is Action.ROLL_BACK
    assert decide(whole, Sight(alone, seen(LATER)), LATER).action is Action.PROMOTE


def test_a_rollback_takes_the_traffic_first_and_the_replicas_afterwards() -> None:
    back = at_step(10, replica_set="set-1").roll_back("bad", NOON)
    assert (back.status, back.weight) == (Status.ROLLING_BACK, 0)
    assert decide(back, Sight(), NOON + timedelta(seconds=1)).action is None
    verdict = decide(back, Sight(), NOON + timedelta(seconds=5))
    assert verdict.action is Action.SCALE_DOWN
    over, _ = apply(back, verdict, Sight(), LATER)
    assert (over.status, over.reason) == (Status.ROLLED_BACK, "bad")


def test_few_failures_prove_little() -> None:
    assert wilson_low(0, 0) == wilson_low(0, 50) == 0
    assert wilson_low(1, 10) < 2
    assert 29 < wilson_low(2, 2) + 1 < 36
    assert 40 < wilson_low(50, 100) < 41


class Anything(RuleBasedStateMachine):
    """Steps, time, evidence of every sort and people's wishes, in any order."""

    @initialize(
        weights=st.lists(st.integers(1, 100), min_size=1, max_size=4, unique=True).map(sorted),
        scaled=st.booleans(),
    )
    def begin(self, weights: list[int], scaled: bool) -> None:
        self.rollout = a_rollout(*weights, replica_set="set-1" if scaled else "", limits=Limits(min_requests=5))
        targets = (Target("old", "m", weight=1), Target("new", "m"), Target("spare", "m"))
        wish = Wish("fast", targets=targets, fallbacks=("spare",))
        self.route = Route(RouteId("route-1"), OrgId("org-a"), UserId("user-1"), NOON, NOON, wish)
        self.now = NOON
        self.lead()

    def lead(self) -> None:
        self.route = self.route.lead(self.rollout.weights, "rollout-1" if self.rollout.active else "", self.now)

    @rule(seconds=st.sampled_from([0.1, 1, 5, 31, 600]))
    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(
        stable=st.tuples(st.integers(0, 50), st.integers(0, 50), st.sampled_from([10.0, 100.0, 5000.0]), st.booleans()),
        candidate=st.tuples(
            st.integers(0, 50), st.integers(0, 50), st.sampled_from([10.0, 100.0, 5000.0]), st.booleans()
        ),
        age=st.sampled_from([0, 1, 9, 11, 120]),
        meanwhile=st.integers(0, 500),
        lost=st.sampled_from(["", "", "", "its route was deleted"]),
    )
    def look(
        self,
        stable: tuple[int, int, float, bool],
        candidate: tuple[int, int, float, bool],
        age: int,
        meanwhile: int,
        lost: str,
    ) -> None:
        at = self.now - timedelta(seconds=age)
        mine, other = (
            seen(at, requests, min(failed, requests), ms, live=live)
            for requests, failed, ms, live in (candidate, stable)
        )
        sight = Sight(other, mine, meanwhile, lost)
        before = self.rollout
        self.rollout, decision = apply(before, decide(before, sight, self.now), sight, self.now)
        if decision is not None and decision.action is not Action.SCALE_DOWN:
            self.lead()
        if self.rollout.weight > before.weight:
            assert other.live
            assert mine.live
            assert before.status is Status.PROGRESSING
            if before.weight:
                assert mine.requests >= 5
                assert mine.last_at is not None
                assert self.now - mine.last_at <= timedelta(seconds=10)
                assert self.now - before.weight_since >= HOLD

    @rule(what=st.sampled_from(["pause", "resume"]))
    def interfere(self, what: str) -> None:
        if self.rollout.active:
            self.rollout = getattr(self.rollout, what)(self.now)
            self.lead()
        else:
            with pytest.raises(RolloutEndedError):
                getattr(self.rollout, what)(self.now)

    @rule()
    def abort(self) -> None:
        """From every state there is."""
        self.rollout = self.rollout.abort("enough", self.now)
        self.lead()
        assert self.rollout.status in (Status.ABORTED, Status.ROLLING_BACK, Status.ROLLED_BACK)
        assert {each.name: each.weight for each in self.route.wish.targets} == {"old": 100, "new": 0, "spare": 0}

    @precondition(lambda self: hasattr(self, "route"))
    @invariant()
    def all_requests_go_somewhere(self) -> None:
        shares = {each.name: each.weight for each in self.route.wish.targets}
        assert sum(shares.values()) == 100
        assert shares["new"] == self.rollout.weight
        assert shares["spare"] == 0
        assert shares["old"] > 0 or self.rollout.step or self.rollout.status is Status.PROMOTED
        assert bool(self.route.rollout_id) == self.rollout.active
        # The stable target is one that the route keeps, so that there is always somewhere to go back to.
        assert {"old", "new"} <= shares.keys()


TestAnything = Anything.TestCase
TestAnything.settings = settings(
    max_examples=60, stateful_step_count=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
