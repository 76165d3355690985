"""Whatever the load does: bounds hold, noise moves nothing to and fro, and what is not known takes nothing away."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from controller.autoscaling.model import Reported, SetLoad, rated, traffic_of
from controller.replica_sets.scaling import Autoscaling, ScalingState, Signals, decide

START = datetime(2026, 1, 1, tzinfo=UTC)
BUSY = timedelta(0)
ASKED = Autoscaling(min_replicas=1, max_replicas=10, target_concurrency=4)
SLEEPY = replace(ASKED, min_replicas=0)

bounds = st.integers(0, 5).flatmap(lambda low: st.tuples(st.just(low), st.integers(max(low, 1), 12)))
wishes = st.builds(
    lambda bound, concurrency, queue, tokens, up, down, cooldown: Autoscaling(
        bound[0], bound[1], concurrency, queue, tokens, up, down, cooldown
    ),
    bounds,
    st.sampled_from([0.0, 0.5, 4.0]),
    st.sampled_from([0.0, 2.0]),
    st.sampled_from([0.0, 100.0]),
    st.integers(0, 5),
    st.integers(0, 20),
    st.integers(0, 10),
)
signals = st.builds(
    Signals,
    in_flight=st.none() | st.integers(0, 100),
    held=st.integers(0, 3),
    queued=st.none() | st.integers(0, 100),
    tokens_per_second=st.none() | st.floats(0, 5000),
    idle=st.none() | st.integers(0, 1000).map(lambda seconds: timedelta(seconds=seconds)),
)


def followed(asked: Autoscaling, seen: Iterable[Signals], replicas: int = 1) -> list[int]:
    """How many there were after each of these looks, one a second."""
    state, there = ScalingState(), list[int]()
    for second, each in enumerate(seen):
        decision = decide(asked, state, each, replicas, START + timedelta(seconds=second))
        state, replicas = decision.state, decision.replicas
        there.append(replicas)
    return there


def load(*in_flight: int | None) -> list[Signals]:
    return [Signals(each, idle=None if each is None else BUSY) for each in in_flight]


@given(wishes, st.lists(signals, min_size=1, max_size=60), st.integers(0, 15))
def test_the_number_stays_between_its_bounds_and_every_change_says_why(
    asked: Autoscaling, seen: Sequence[Signals], replicas: int
) -> None:
    there = followed(asked, seen, replicas)
    assert all(asked.min_replicas <= each <= asked.max_replicas for each in there)
    state = decide(asked, ScalingState(), seen[0], replicas, START).state
    # Another controller goes on with what is stored.
    assert ScalingState.read(json.loads(json.dumps(state.row()))) == state
    assert state.explanation
    assert bool(state.scaled_why) == (there[0] != replicas)


@given(wishes, signals, st.lists(signals, max_size=40))
def test_what_is_not_known_takes_nothing_away(asked: Autoscaling, unknown: Signals, before: Sequence[Signals]) -> None:
    if not (asked.target_concurrency and asked.min_replicas):
        asked = replace(asked, target_concurrency=4.0)
    first = followed(asked, before)[-1] if before else max(asked.min_replicas, 1)
    dark = replace(unknown, in_flight=None, idle=None)
    later = followed(asked, [dark] * 60, first)
    assert all(each >= min(first, asked.max_replicas) for each in later)


@given(st.lists(st.integers(0, 40), min_size=40, max_size=100), st.integers(1, 25))
def test_noise_moves_nothing_to_and_fro(noise: list[int], every: int) -> None:
    # However low a load falls in between: while it comes back before the wait for fewer is over, nothing ends.
    peaks = [Signals(40 if second % every < 4 else each, idle=BUSY) for second, each in enumerate(noise)]
    there = followed(replace(ASKED, scale_down_seconds=30), peaks)
    assert there == sorted(there)
    assert len(set(there)) <= 3


def test_more_come_after_a_short_wait_and_fewer_after_a_long_one() -> None:
    there = followed(ASKED, load(*[20] * 30, *[5] * 200))
    assert (there[2], there[3]) == (1, 5)
    assert (there[30 + 119], there[30 + 120]) == (5, 2)
    # As many as were wanted at any look of the wait.
    there = followed(ASKED, load(*[20] * 30, *[5] * 60, 11, *[5] * 200))
    assert there[30 + 120 : 30 + 122] == [3, 3]
    assert there[-1] == 2


def test_near_its_target_nothing_changes_and_changes_keep_apart() -> None:
    assert set(followed(ASKED, load(*[21] * 600), 5)) == {5}
    assert set(followed(ASKED, load(*[19] * 600), 5)) == {5}
    there = followed(replace(ASKED, cooldown_seconds=60), load(*[8] * 10, *[40] * 80))
    assert [there.index(2), there.index(10)] == [3, 63]


def test_the_target_that_asks_for_most_counts() -> None:
    asked = replace(ASKED, target_queue=2, target_tokens_per_second=100, scale_up_seconds=0)
    seen = Signals(8, queued=9, tokens_per_second=310.0, idle=BUSY)
    decision = decide(asked, ScalingState(), seen, 1, START)
    assert (decision.replicas, decision.state.scaled_why) == (
        5,
        "9 requests in the engines' queues over 2 each make 5",
    )
    silent = decide(asked, ScalingState(), replace(seen, queued=None), 6, START)
    assert silent.replicas == 6


def test_a_model_sleeps_only_when_nobody_asked_for_so_long_and_wakes_at_once() -> None:
    idle = timedelta(seconds=300)

    def replicas(there: int, in_flight: int | None, held: int = 0, idle: timedelta | None = idle) -> int:
        return decide(SLEEPY, ScalingState(), Signals(in_flight, held, idle=idle), there, START).replicas

    assert replicas(1, 0) == 0
    assert replicas(3, 0) == 0
    assert replicas(1, 0, idle=timedelta(seconds=299)) == 1
    assert replicas(1, 1) == 1
    assert replicas(1, None) == 1
    assert replicas(1, None, idle=None) == 1
    assert replicas(1, 0, held=1) == 1
    assert replicas(0, 0) == 0
    assert replicas(0, None, idle=None) == 0
    assert replicas(0, None, held=1, idle=None) == 1
    # As many wake as those that wait ask for.
    assert replicas(0, 0, held=9) == 3
    just_fell_asleep = ScalingState(scaled_at=START, scaled_from=1)
    assert decide(SLEEPY, just_fell_asleep, Signals(0, 1, idle=BUSY), 0, START).replicas == 1


def test_gateways_add_up_and_a_silent_one_makes_the_sum_unknown() -> None:
    def reported(in_flight: int, age: int, idle: int = 9) -> Reported:
        return Reported(SetLoad("set", in_flight, 1, timedelta(seconds=idle)), timedelta(seconds=age))

    both = traffic_of([reported(3, 0), reported(4, 1, idle=7)])
    assert (both.in_flight, both.held, both.idle) == (7, 2, timedelta(seconds=7))
    one_silent = traffic_of([reported(3, 0), reported(4, 6)])
    assert (one_silent.in_flight, one_silent.held, one_silent.idle) == (None, 1, None)
    one_gone = traffic_of([reported(3, 0), reported(4, 61)])
    assert (one_gone.in_flight, one_gone.idle) == (3, timedelta(seconds=9))
    assert traffic_of([]).in_flight is None


def test_tokens_are_rated_over_some_seconds_and_a_new_engine_counts_anew() -> None:
    known = rated({}, {"a": 100.0}, ["a"], START)
    known = rated(known, {"a": 300.0}, ["a"], START + timedelta(seconds=2))
    assert known["a"][2] == 0
    known = rated(known, {"a": 600.0}, ["a"], START + timedelta(seconds=5))
    assert known["a"][2] == 100
    assert rated(known, {"a": 600.0}, ["a"], START + timedelta(seconds=9))["a"][2] == 100
    assert rated(known, {"a": 600.0}, ["a"], START + timedelta(seconds=20))["a"][2] == 0
    assert rated(known, {"a": 5.0}, ["a"], START + timedelta(seconds=9))["a"][2] == 0
    assert rated(known, {"a": 5.0}, [], START) == {}
