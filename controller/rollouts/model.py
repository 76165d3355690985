"""A rollout: which target takes over from which, by what steps, held to which limits, and how far it came."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import NewType

from controller.routing.model import RouteId
from mesh.errors import DomainError, FieldViolation, InvalidRequestError, Kind
from mesh.identity import OrgId, UserId

RolloutId = NewType("RolloutId", str)
WHOLE = 100


class Status(Enum):
    """Where a rollout stands."""

    PROGRESSING = "progressing"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"


ACTIVE = frozenset({Status.PROGRESSING, Status.PAUSED})
UNSETTLED = ACTIVE | {Status.ROLLING_BACK}


class Action(Enum):
    """What was decided."""

    CREATE = "create"
    ADVANCE = "advance"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    SCALE_DOWN = "scale_down"


class RolloutNotFoundError(DomainError):
    """There is no such rollout, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "ROLLOUT_NOT_FOUND"

    def __init__(self, rollout_id: str) -> None:
        super().__init__(f"there is no rollout {rollout_id}", rollout_id=rollout_id)


class RolloutEndedError(DomainError):
    """It is over, so it can be neither paused nor resumed."""

    kind, reason = Kind.PRECONDITION, "ROLLOUT_ENDED"

    def __init__(self, rollout: "Rollout", why: str = "") -> None:
        super().__init__(
            f"rollout {rollout.rollout_id} is {rollout.status.value}; {why or 'create another one'}",
            rollout_id=rollout.rollout_id,
            status=rollout.status.value,
        )


@dataclass(frozen=True, slots=True)
class Step:
    """A share of the requests in percent, and how long it is kept at least."""

    weight: int
    hold: timedelta


DEFAULT_STEPS = tuple(Step(weight, timedelta(minutes=1)) for weight in (5, 25, 50))


@dataclass(frozen=True, slots=True)
class Limits:
    """What the candidate is held to. Rates are percent, ratios are to the stable target's value."""

    min_requests: int = 20
    max_error_percent: float = 10.0
    max_error_increase_percent: float = 5.0
    max_latency_ratio: float = 1.5
    max_first_token_ratio: float = 1.5
    latency_slack_ms: int = 50
    window: timedelta = timedelta(seconds=60)
    silence: timedelta = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Spec:
    """What is asked of a rollout."""

    route: str
    candidate: str
    stable: str = ""
    steps: tuple[Step, ...] = DEFAULT_STEPS
    limits: Limits = field(default_factory=Limits)
    replica_set: str = ""

    def check(self) -> None:
        """Raises InvalidRequestError that names every field at fault."""
        found = list(self._faults())
        if found:
            raise InvalidRequestError(*found)

    def _faults(self) -> Iterator[FieldViolation]:
        if self.stable == self.candidate:
            yield FieldViolation("spec.candidate", f"{self.candidate} is the stable target already")
        if not self.steps:
            yield FieldViolation("spec.steps", "there must be at least one")
        weights = [step.weight for step in self.steps]
        for number, (before, weight) in enumerate(zip([0, *weights], weights, strict=False)):
            if not before < weight <= WHOLE:
                text = f"{weight} is not above the step before it and at most {WHOLE}"
                yield FieldViolation(f"spec.steps[{number}].weight", text)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of one target's requests. Latencies are of those that it answered."""

    requests: int = 0
    failed: int = 0
    # Requests a second, over the time that was looked at.
    per_s: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    streams: int = 0
    first_token_p95_ms: float = 0.0
    last_at: datetime | None = None
    # Whether there is anybody to send requests to.
    live: bool = False

    @property
    def error_percent(self) -> float:
        """Percent of the requests that failed."""
        return 100.0 * self.failed / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What both targets were seen to do at the same time. `lost`: why the route cannot go on; empty when it can."""

    stable: Evidence = field(default_factory=Evidence)
    candidate: Evidence = field(default_factory=Evidence)
    # Requests that the stable target has ended since the candidate last ended one.
    meanwhile: int = 0
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, and what it was decided by."""

    at: datetime
    action: Action
    weight: int
    reason: str
    sight: Sight = field(default_factory=Sight)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A route on its way from one target to another."""

    rollout_id: RolloutId
    org_id: OrgId
    user_id: UserId
    created_at: datetime
    changed_at: datetime
    route_id: RouteId
    route_name: str
    spec: Spec
    # Since when the candidate has its weight, or since when it is looked at anew.
    weight_since: datetime
    status: Status = Status.PROGRESSING
    reason: str = ""
    step: int = 0
    weight: int = 0
    # What the stable target did before the candidate got everything.
    remembered: Evidence = field(default_factory=Evidence)
    ended_at: datetime | None = None

    @property
    def active(self) -> bool:
        """Whether it leads the route."""
        return self.status in ACTIVE

    @property
    def weights(self) -> Mapping[str, int]:
        """The shares of both targets; together everything."""
        return {self.spec.stable: WHOLE - self.weight, self.spec.candidate: self.weight}

    @property
    def baseline_is_remembered(self) -> bool:
        """Whether nobody is beside the candidate to compare it with."""
        return self.weight == WHOLE

    def baseline(self, sight: Sight) -> Evidence:
        """What the candidate is compared with."""
        return self.remembered if self.baseline_is_remembered else sight.stable

    def pause(self, now: datetime) -> "Rollout":
        """The share stays. RolloutEndedError."""
        self._require_active()
        if self.status is Status.PAUSED:
            return self
        return replace(self, status=Status.PAUSED, reason="paused", changed_at=now)

    def resume(self, now: datetime) -> "Rollout":
        """The share may rise again, after its hold. RolloutEndedError."""
        self._require_active()
        if self.status is Status.PROGRESSING:
            return self
        return replace(self, status=Status.PROGRESSING, reason="", changed_at=now, weight_since=now)

    def abort(self, reason: str, now: datetime) -> "Rollout":
        """The stable target has everything, whatever was before. What is on its way back already stays as it is."""
        if self.status in (Status.ROLLING_BACK, Status.ROLLED_BACK, Status.ABORTED):
            return self
        return self._back(Status.ABORTED, reason or "aborted", now)

    def roll_back(self, reason: str, now: datetime) -> "Rollout":
        """The stable target has everything; the candidate's replicas end afterwards, where it was asked for."""
        return self._back(Status.ROLLING_BACK if self.spec.replica_set else Status.ROLLED_BACK, reason, now)

    def end_roll_back(self, now: datetime) -> "Rollout":
        """The candidate's replicas were told to end."""
        return replace(self, status=Status.ROLLED_BACK, changed_at=now, ended_at=now)

    def advance(self, sight: Sight, now: datetime) -> "Rollout":
        """The next step."""
        weight = self.spec.steps[self.step].weight
        remembered = sight.stable if not self.baseline_is_remembered else self.remembered
        return replace(
            self, step=self.step + 1, weight=weight, weight_since=now, changed_at=now, reason="", remembered=remembered
        )

    def promote(self, now: datetime) -> "Rollout":
        """The candidate has everything, and this is over."""
        return replace(
            self, status=Status.PROMOTED, weight=WHOLE, weight_since=now, changed_at=now, ended_at=now, reason=""
        )

    def _back(self, status: Status, reason: str, now: datetime) -> "Rollout":
        ended = None if status is Status.ROLLING_BACK else now
        return replace(self, status=status, reason=reason, weight=0, weight_since=now, changed_at=now, ended_at=ended)

    def _require_active(self) -> None:
        if not self.active:
            raise RolloutEndedError(self)


@dataclass(frozen=True, slots=True)
class RolloutChanged:
    """Something was decided."""

    rollout: Rollout
    decision: Decision

    @property
    def at(self) -> datetime:
        """When."""
        return self.decision.at


def only_weighted(weights: Mapping[str, int], besides: Sequence[str]) -> list[str]:
    """The names with a weight, without those."""
    return [name for name, weight in weights.items() if weight and name not in besides]
