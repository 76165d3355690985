"""A replica set: what is wanted of it, and which revision of its template its replicas are made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import NewType

from controller.deployments.wish import Wish
from controller.deployments.workload import Adapter, EngineOptions, Program
from controller.models.model import ModelId
from controller.placement.model import NO_OPTIONS, Options
from controller.replica_sets.scaling import Autoscaling, Decision, ScalingState
from mesh.errors import DomainError, Kind
from mesh.identity import OrgId, UserId

ReplicaSetId = NewType("ReplicaSetId", str)

PROGRESS_DEADLINE = timedelta(minutes=10)
# So many revisions can be gone back to.
KEPT_REVISIONS = 10
# A replica that failed is replaced after 10 s, then 20 s, and so on up to 5 minutes.
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=10), timedelta(minutes=5)


class SetStatus(Enum):
    """Where a set stands."""

    PROGRESSING = "progressing"
    READY = "ready"
    DEGRADED = "degraded"
    PAUSED = "paused"
    FAILED = "failed"
    STOPPED = "stopped"


class ReplicaSetNotFoundError(DomainError):
    """There is no such set, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "REPLICA_SET_NOT_FOUND"

    def __init__(self, reference: str) -> None:
        super().__init__(f"there is no replica set {reference}", replica_set_id=reference)


class ReplicaSetExistsError(DomainError):
    """The organisation has a set of that name."""

    kind, reason = Kind.EXISTS, "REPLICA_SET_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is a replica set named {name!r}; scale it with `aiops scale {name} N`, or choose another --name",
            name=name,
        )


class RevisionNotFoundError(DomainError):
    """The set keeps no such revision of its template."""

    kind, reason = Kind.NOT_FOUND, "REVISION_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class Template:
    """What a replica is made from.

    `model_digest` and `model_revision` name the state of the model that each has, also one that is started later.
    """

    image: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    model_digest: str = ""
    options: Options = NO_OPTIONS
    engine_options: EngineOptions = field(default_factory=EngineOptions)
    program: Program = field(default_factory=Program)
    model_revision: int = 0
    adapters: tuple[Adapter, ...] = ()

    def wish(self, model: str) -> Wish:
        """What is asked of each replica, which goes where there is room."""
        return Wish(
            model,
            image=self.image,
            environment=dict(self.environment),
            program=self.program,
            options=self.options,
            engine_options=self.engine_options,
            model_revision=self.model_digest,
            adapters=self.adapters,
        )


@dataclass(frozen=True, slots=True)
class TemplateWish:
    """A template as it was asked for: the model's revision by number or digest, adapters by model id or name."""

    template: Template = field(default_factory=Template)
    model_revision: str = ""
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """What the reconciler last saw. `progressed_at` is when one more replica of the wanted revision was ready."""

    status: SetStatus = SetStatus.PROGRESSING
    reason: str = ""
    ready: int = 0
    updated: int = 0
    active: int = 0
    failures: int = 0
    last_failure: str = ""
    next_attempt_at: datetime | None = None
    progressed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ReplicaSet:
    """So many replicas of a model. `templates` by revision; `revision` is the wanted one, `newest` the last given out.

    `stable_revision` is the last one that ran completely, 0 before the first.
    """

    replica_set_id: ReplicaSetId
    org_id: OrgId
    user_id: UserId
    created_at: datetime
    changed_at: datetime
    name: str
    model_id: ModelId
    model_name: str
    replicas: int
    templates: Mapping[int, Template]
    revision: int = 1
    newest: int = 1
    stable_revision: int = 0
    paused: bool = False
    progress_deadline: timedelta = PROGRESS_DEADLINE
    standing: Standing = field(default_factory=Standing)
    deleted_at: datetime | None = None
    # How the number follows the load, None where people set it, and what came of that.
    autoscaling: Autoscaling | None = None
    scaling: ScalingState = field(default_factory=ScalingState)

    @property
    def template(self) -> Template:
        """What new replicas are made from."""
        return self.templates[self.revision]

    @property
    def warm(self) -> int:
        """How many more are to run without requests."""
        return self.autoscaling.warm_replicas if self.autoscaling and self.deleted_at is None else 0

    @property
    def kept(self) -> int:
        """How many are to run, warm ones included."""
        return self.replicas + self.warm

    @property
    def rolling(self) -> bool:
        """Whether another revision is wanted than the one that last ran completely."""
        return self.revision != self.stable_revision

    def scale(self, replicas: int, now: datetime) -> "ReplicaSet":
        """So many replicas are wanted."""
        return self if replicas == self.replicas else self._begin(now, replicas=replicas)

    def autoscale(self, wanted: Autoscaling | None, now: datetime) -> "ReplicaSet":
        """The number follows the load from now on, or does not any more."""
        if wanted == self.autoscaling:
            return self
        fresh = ScalingState(standby=self.scaling.standby)
        return self._begin(now, autoscaling=wanted, scaling=fresh)

    def follow(self, decision: Decision, now: datetime) -> "ReplicaSet":
        """As the load asks."""
        return replace(self.scale(decision.replicas, now), scaling=decision.state)

    def roll_out(self, template: Template, now: datetime) -> "ReplicaSet":
        """The next revision is wanted."""
        newest = self.newest + 1
        kept = sorted(self.templates)[1 - KEPT_REVISIONS :]
        templates = {each: self.templates[each] for each in {*kept, self.stable_revision} & self.templates.keys()}
        return self._begin(now, revision=newest, newest=newest, templates={**templates, newest: template})

    def roll_back(self, revision: int, now: datetime) -> "ReplicaSet":
        """An earlier revision is wanted; 0 means the one before. RevisionNotFoundError."""
        earlier = [each for each in self.templates if each < self.revision]
        wanted = revision or (
            self.stable_revision if self.rolling and self.stable_revision else max(earlier, default=0)
        )
        if wanted not in self.templates:
            known = ", ".join(str(each) for each in sorted(self.templates))
            raise RevisionNotFoundError(
                f"{self.name} keeps no revision {wanted or 'before this one'}; it keeps {known}"
            )
        return self._begin(now, revision=wanted, paused=False)

    def take_back(self, why: str, now: datetime) -> "ReplicaSet":
        """The rollout failed: what ran completely before is wanted again."""
        cause = f"revision {self.revision} was taken back to revision {self.stable_revision}: {why}"
        back = self._begin(now, revision=self.stable_revision)
        return replace(back, standing=replace(back.standing, last_failure=cause))

    def pause(self, now: datetime) -> "ReplicaSet":
        """A rollout stays where it is."""
        return self if self.paused else replace(self, paused=True, changed_at=now)

    def resume(self, now: datetime) -> "ReplicaSet":
        """A rollout goes on."""
        return self._begin(now, paused=False) if self.paused else self

    def delete(self, now: datetime) -> "ReplicaSet":
        """Every replica ends."""
        return self if self.deleted_at else self._begin(now, replicas=0, deleted_at=now)

    def fail_once(self, error: str, now: datetime) -> "ReplicaSet":
        """One more replica in a row failed; the next one is started after a pause that doubles."""
        failures = self.standing.failures + 1
        pause = min(FIRST_PAUSE * 2 ** min(failures - 1, 10), LONGEST_PAUSE)
        standing = replace(self.standing, failures=failures, last_failure=error, next_attempt_at=now + pause)
        return replace(self, standing=standing)

    def _begin(self, now: datetime, **changes: object) -> "ReplicaSet":
        """Something else is wanted: what was made of the last wish counts no more."""
        fresh = Standing(
            ready=self.standing.ready, updated=self.standing.updated, active=self.standing.active, progressed_at=now
        )
        return replace(self, standing=fresh, changed_at=now, **changes)  # type: ignore[arg-type]


class Unchanged(Enum):
    """Says of a value that may be None that it stays as it is."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED


@dataclass(frozen=True, slots=True)
class SetChanges:
    """New values; None leaves a field as it is."""

    replicas: int | None = None
    template: TemplateWish | None = None
    progress_deadline: timedelta | None = None
    autoscaling: "Autoscaling | Unchanged | None" = UNCHANGED


@dataclass(frozen=True, slots=True)
class ReplicaSetScaled:
    """The load changed how many replicas are wanted."""

    replica_set: ReplicaSet
    at: datetime


@dataclass(frozen=True, slots=True)
class ReplicaSetStatusChanged:
    """A set was made, changed, came to rest, or could not."""

    replica_set: ReplicaSet
    at: datetime
