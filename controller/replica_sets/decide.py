"""What a replica set needs next: one pure function over the set and its replicas, safe to ask at any time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.deployments.model import Deployment, DeploymentId, DeploymentStatus
from controller.deployments.workload import HealthStatus
from controller.replica_sets.model import ReplicaSet, SetStatus

# Routes follow a replica within a second, so one that has run for so long is reached.
ROUTED_AFTER = timedelta(seconds=2)
# How many replicas more than wanted there may be while replicas are replaced.
SURGE = 1


@dataclass(frozen=True, slots=True)
class Member:
    """A replica of a set that was not told to end; `leaving`: its node is to be emptied."""

    deployment: Deployment
    leaving: bool = False

    @property
    def failed(self) -> bool:
        """Whether its node has given it up."""
        return self.deployment.status is DeploymentStatus.FAILED

    @property
    def well(self) -> bool:
        """Whether it runs and is not known to be unwell."""
        runs = self.deployment.status is DeploymentStatus.RUNNING
        return runs and self.deployment.observed.health_status is not HealthStatus.UNHEALTHY

    def serves(self, now: datetime) -> bool:
        """Whether it runs, is well, and is routed."""
        deployed_at = self.deployment.deployed_at
        return self.well and deployed_at is not None and now - deployed_at >= ROUTED_AFTER


@dataclass(frozen=True, slots=True)
class Step:
    """What to do: replicas to end, how many to start, and how the set stands meanwhile."""

    end: tuple[DeploymentId, ...]
    start: int
    ready: int
    updated: int
    active: int
    complete: bool


def decide(replica_set: ReplicaSet, members: Sequence[Member], now: datetime) -> Step:
    """The next step.

    Without anything to replace, replicas start and end at once. Else one new replica more than wanted may be there,
    and an old one ends only when so many as wanted serve without it. A paused rollout keeps the number and replaces
    nothing.
    """
    active = [each for each in members if not each.failed]
    fresh = [each for each in active if _is_fresh(replica_set, each)]
    old = [each for each in active if not _is_fresh(replica_set, each)]
    serving = [each for each in active if each.serves(now)]
    updated = sum(each.deployment.template_revision == replica_set.revision for each in serving)
    start, end = _replace(replica_set, fresh, old, now) if old else _resize(replica_set, fresh, now)
    waits = replica_set.standing.next_attempt_at
    return Step(
        end=tuple(each.deployment.deployment_id for each in end),
        start=0 if waits is not None and now < waits else start,
        ready=sum(each.deployment.deployment_id not in replica_set.scaling.standby for each in serving),
        updated=updated,
        active=len(active),
        complete=not old and len(active) == len(serving) == updated == replica_set.kept,
    )


def standby_of(replica_set: ReplicaSet, members: Sequence[Member], now: datetime) -> tuple[DeploymentId, ...]:
    """Which of the members get no requests: those beyond as many as are wanted.

    Whoever gets some goes on with it; next are those that could answer at once, the oldest first.
    """
    if not replica_set.warm:
        return ()
    before = replica_set.scaling.standby
    ordered = sorted(
        members,
        key=lambda each: (
            not each.well,
            not each.serves(now),
            each.deployment.deployment_id in before,
            each.deployment.created_at,
            each.deployment.deployment_id,
        ),
    )
    return tuple(sorted(each.deployment.deployment_id for each in ordered[replica_set.replicas :]))


def status_of(replica_set: ReplicaSet, step: Step, refusal: str, now: datetime) -> tuple[SetStatus, str]:
    """How the set stands after a step, and why. `refusal` is why no replica could be started, empty when one could."""
    if replica_set.deleted_at is not None:
        return SetStatus.STOPPED, f"{step.active} replicas end" if step.active else ""
    standing = replica_set.standing
    if step.complete:
        return SetStatus.READY, standing.last_failure if not replica_set.rolling else ""
    there = f"{min(step.ready, replica_set.replicas)} of {replica_set.replicas} replicas serve"
    if replica_set.rolling and replica_set.stable_revision:
        there += f", {step.updated} of them are of revision {replica_set.revision}"
    why = refusal or _crashing(replica_set)
    if _is_overdue(replica_set, now):
        return (
            SetStatus.FAILED,
            f"{there} after the progress deadline of {replica_set.progress_deadline}; {why}".rstrip("; "),
        )
    if replica_set.paused and replica_set.rolling:
        return (
            SetStatus.PAUSED,
            f"{step.updated} of {replica_set.replicas} replicas are of revision {replica_set.revision}",
        )
    if why:
        return SetStatus.DEGRADED, f"{there}; {why}"
    return SetStatus.PROGRESSING, there


def why_to_take_back(replica_set: ReplicaSet, now: datetime) -> str:
    """Why a rollout cannot succeed; empty while it may, and when there is nothing to go back to."""
    if not replica_set.rolling or replica_set.stable_revision not in replica_set.templates or replica_set.deleted_at:
        return ""
    if replica_set.standing.failures:
        return replica_set.standing.last_failure
    if _is_overdue(replica_set, now):
        return f"it made no progress for {replica_set.progress_deadline}; {replica_set.standing.reason}"
    return ""


def _is_fresh(replica_set: ReplicaSet, member: Member) -> bool:
    if member.leaving:
        return False
    # While a rollout pauses, nothing is replaced because of its revision.
    return replica_set.paused or member.deployment.template_revision == replica_set.revision


def _resize(replica_set: ReplicaSet, fresh: Sequence[Member], now: datetime) -> tuple[int, Sequence[Member]]:
    missing = replica_set.kept - len(fresh)
    return (missing, ()) if missing >= 0 else (0, _dispensable(replica_set, fresh, now)[:-missing])


def _replace(
    replica_set: ReplicaSet, fresh: Sequence[Member], old: Sequence[Member], now: datetime
) -> tuple[int, Sequence[Member]]:
    wanted = replica_set.kept
    surplus = _dispensable(replica_set, fresh, now)[: max(0, len(fresh) - wanted)]
    # An old replica that serves nobody only takes the new one's place.
    idle = [each for each in old if not each.well]
    spare = sum(each.serves(now) for each in (*fresh, *old)) - wanted
    serving = [each for each in _dispensable(replica_set, old, now) if each.serves(now)]
    ended = [*surplus, *idle, *serving[: max(0, spare)]]
    left = len(fresh) + len(old) - len(ended)
    return max(0, min(wanted - len(fresh), wanted + SURGE - left)), ended


def _dispensable(replica_set: ReplicaSet, members: Sequence[Member], now: datetime) -> list[Member]:
    """Those that serve nobody first, then the youngest."""
    warm = replica_set.scaling.standby
    by_age = sorted(members, key=lambda each: each.deployment.created_at, reverse=True)
    return sorted(by_age, key=lambda each: (each.serves(now), each.deployment.deployment_id not in warm))


def _is_overdue(replica_set: ReplicaSet, now: datetime) -> bool:
    since = replica_set.standing.progressed_at or replica_set.created_at
    held = replica_set.paused and replica_set.rolling
    return not held and now - since > replica_set.progress_deadline


def _crashing(replica_set: ReplicaSet) -> str:
    standing = replica_set.standing
    if not standing.failures or standing.next_attempt_at is None:
        return ""
    return (
        f"{standing.failures} replicas failed in a row, the next one starts at "
        f"{standing.next_attempt_at:%H:%M:%S} UTC: {standing.last_failure}"
    )
