"""A rollout never takes away what serves before its successor does, and everything comes to rest as it should be."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.deployments.model import Deployment, DeploymentId, DeploymentStatus, InstanceId
from controller.models.model import ModelId
from controller.nodes.model import NodeId
from controller.replica_sets.decide import SURGE, Member, decide, status_of, why_to_take_back
from controller.replica_sets.model import ReplicaSet, ReplicaSetId, RevisionNotFoundError, SetStatus, Template
from mesh.identity import OrgId, UserId

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)


def wanted(replicas: int, revision: int = 1, stable: int = 1, **fields: object) -> ReplicaSet:
    templates = {each: Template() for each in range(1, revision + 1)}
    made = ReplicaSet(
        ReplicaSetId("set-1"),
        OrgId("o"),
        UserId("u"),
        LONG_AGO,
        LONG_AGO,
        "tiny",
        ModelId("m"),
        "tiny",
        replicas,
        templates,
    )
    return replace(made, revision=revision, newest=revision, stable_revision=stable, **fields)  # type: ignore[arg-type]


def member(
    number: int, revision: int = 1, status: DeploymentStatus = DeploymentStatus.RUNNING, *, leaving: bool = False
) -> Member:
    made = Deployment(
        deployment_id=DeploymentId(f"dep-{number}"),
        instance_id=InstanceId(f"i{number}"),
        org_id=OrgId("o"),
        user_id=UserId("u"),
        model_id=ModelId("m"),
        model_name="tiny",
        framework="vllm",
        task="llm",
        node_id=NodeId("node-1"),
        image="",
        gpu_devices=(),
        memory_allocated=1,
        requested_port=0,
        request_id="",
        revision=1,
        created_at=LONG_AGO + timedelta(seconds=number),
        changed_at=LONG_AGO,
        status=status,
        deployed_at=LONG_AGO if status is DeploymentStatus.RUNNING else None,
        template_revision=revision,
    )
    return Member(made, leaving=leaving)


def ids(*numbers: int) -> tuple[str, ...]:
    return tuple(f"dep-{number}" for number in numbers)


def test_what_is_missing_starts_at_once_and_what_is_too_many_ends_youngest_first() -> None:
    assert decide(wanted(3), [member(1)], NOW).start == 2
    starting = member(2, status=DeploymentStatus.DEPLOYING)
    assert decide(wanted(2), [member(1), starting, member(3), member(4)], NOW).end == ids(2, 4)
    assert decide(wanted(2), [member(1), member(2)], NOW).complete
    assert not decide(wanted(2), [member(1), starting], NOW).complete
    assert decide(wanted(0), [member(1)], NOW).end == ids(1)


def test_one_that_runs_counts_only_once_it_is_routed() -> None:
    fresh = Member(replace(member(1).deployment, deployed_at=NOW - timedelta(seconds=1)))
    assert decide(wanted(1), [fresh], NOW).ready == 0
    assert decide(wanted(1), [fresh], NOW + timedelta(seconds=2)).complete


def test_a_rollout_starts_one_more_and_ends_an_old_one_when_enough_serve_without_it() -> None:
    rolling = wanted(2, revision=2)
    assert decide(rolling, [member(1), member(2)], NOW).start == 1
    starting = member(3, 2, DeploymentStatus.DEPLOYING)
    step = decide(rolling, [member(1), member(2), starting], NOW)
    assert (step.start, step.end) == (0, ())
    assert decide(rolling, [member(1), member(2), member(3, 2)], NOW).end == ids(2)
    assert decide(rolling, [member(1), member(3, 2)], NOW).start == 1
    step = decide(rolling, [member(1), member(3, 2), member(4, 2)], NOW)
    assert (step.start, step.end) == (0, ids(1))
    assert decide(rolling, [member(3, 2), member(4, 2)], NOW).complete


def test_an_old_replica_that_serves_nobody_makes_way() -> None:
    step = decide(wanted(1, revision=2), [member(1, 1, DeploymentStatus.DEPLOYING)], NOW)
    assert (step.end, step.start) == (ids(1), 1)


def test_what_is_on_a_node_that_is_emptied_is_replaced_first() -> None:
    leaving = [member(1, leaving=True), member(2)]
    assert decide(wanted(2), leaving, NOW).start == 1
    assert decide(wanted(2), [*leaving, member(3)], NOW).end == ids(1)


def test_a_paused_rollout_keeps_the_number_and_replaces_nothing() -> None:
    paused = wanted(2, revision=2, paused=True)
    step = decide(paused, [member(1), member(3, 2)], NOW)
    assert (step.start, step.end, step.complete) == (0, (), False)
    assert decide(paused, [member(1)], NOW).start == 1
    assert status_of(paused, step, "", NOW)[0] is SetStatus.PAUSED


def test_a_rollout_that_fails_or_stands_still_is_taken_back_to_what_ran() -> None:
    rolling = replace(wanted(2, revision=2), changed_at=NOW).pause(NOW).resume(NOW)
    assert why_to_take_back(rolling, NOW) == ""
    assert "no progress" in why_to_take_back(rolling, NOW + timedelta(minutes=11))
    broken = rolling.fail_once("it cannot start", NOW)
    assert why_to_take_back(broken, NOW) == "it cannot start"
    back = broken.take_back("it cannot start", NOW)
    assert (back.revision, back.newest, back.standing.failures) == (1, 2, 0)
    assert back.roll_out(Template(), NOW).revision == 3
    assert why_to_take_back(wanted(2, stable=0).fail_once("no", NOW), NOW) == ""


def test_failures_in_a_row_are_given_more_and_more_time() -> None:
    failing, pauses = wanted(2), []
    for _ in range(8):
        failing = failing.fail_once("it cannot start", NOW)
        assert failing.standing.next_attempt_at is not None
        pauses.append((failing.standing.next_attempt_at - NOW).total_seconds())
    assert pauses == [10, 20, 40, 80, 160, 300, 300, 300]
    assert decide(failing, [member(1)], NOW).start == 0
    assert decide(failing, [member(1)], NOW + timedelta(seconds=301)).start == 1


def test_an_earlier_revision_can_be_wanted_again_and_an_unknown_one_not() -> None:
    rolled = wanted(1).roll_out(Template(image="b"), NOW)
    assert rolled.roll_back(0, NOW).revision == 1
    with pytest.raises(RevisionNotFoundError, match="keeps 1, 2"):
        rolled.roll_back(7, NOW)
    with pytest.raises(RevisionNotFoundError):
        wanted(1).roll_back(0, NOW)
    many = wanted(1)
    for _ in range(30):
        many = many.roll_out(Template(), NOW)
    assert len(many.templates) <= 11
    assert 1 in many.templates


@dataclass
class World:
    """Replicas that start when they are told to, and end at once."""

    replica_set: ReplicaSet
    members: list[Member] = field(default_factory=list)
    made: int = 0

    def act(self) -> bool:
        """One step; whether something changed."""
        step = decide(self.replica_set, self.members, NOW)
        self.members = [each for each in self.members if each.deployment.deployment_id not in step.end]
        if not step.end:
            for _ in range(step.start):
                self.made += 1
                made = member(100 + self.made, self.replica_set.revision, DeploymentStatus.DEPLOYING)
                self.members.append(made)
        return bool(step.end or step.start)

    def run_one(self) -> bool:
        """One replica that was starting runs."""
        for position, each in enumerate(self.members):
            if each.deployment.status is DeploymentStatus.DEPLOYING:
                running = replace(each.deployment, status=DeploymentStatus.RUNNING, deployed_at=LONG_AGO)
                self.members[position] = replace(each, deployment=running)
                return True
        return False

    @property
    def serving(self) -> int:
        return sum(each.serves(NOW) for each in self.members)


MEMBERS = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(list(DeploymentStatus)[:2]), st.booleans()), max_size=8)


@given(MEMBERS, st.integers(0, 6), st.data())
def test_from_anywhere_it_comes_to_rest_without_serving_less_than_it_must(
    there: Sequence[tuple[int, DeploymentStatus, bool]], replicas: int, data: st.DataObject
) -> None:
    members = [member(number, *each[:2], leaving=each[2]) for number, each in enumerate(there)]
    world = World(wanted(replicas, revision=3, stable=2), members)
    for _ in range(100):
        before, held = world.serving, len(world.members)
        acted = world.act()
        assert world.serving >= min(before, replicas)
        assert len(world.members) <= max(held, replicas + SURGE)
        ran = world.run_one() if not acted or data.draw(st.booleans()) else False
        if not acted and not ran:
            break
    assert decide(world.replica_set, world.members, NOW).complete
    assert len(world.members) == replicas
