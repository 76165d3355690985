"""Replica sets in PostgreSQL."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    Row,
    Table,
    Text,
    exists,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.deployments.model import ACTIVE, DeploymentId
from controller.deployments.rows import deployment_of, options_of
from controller.deployments.sleepy import SleepyModel
from controller.deployments.store import deployments
from controller.deployments.workload import Adapter, EngineOptions, Goal, Program
from controller.models.model import ModelId
from controller.nodes.store import nodes
from controller.replica_sets.decide import Member
from controller.replica_sets.model import (
    ReplicaSet,
    ReplicaSetExistsError,
    ReplicaSetId,
    ReplicaSetNotFoundError,
    SetStatus,
    Standing,
    Template,
)
from controller.replica_sets.scaling import Autoscaling, ScalingState
from mesh.identity import Caller, OrgId, UserId
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.tables import audit_columns, metadata, moment, owner_columns

_OF_A_NAME_TAKEN = "uq_replica_sets_org_id_name"

replica_sets = Table(
    "replica_sets",
    metadata,
    Column("replica_set_id", Text, primary_key=True),
    *owner_columns(),
    *audit_columns(),
    Column("name", Text, nullable=False),
    Column("model_id", Text, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("templates", JSONB, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("newest", Integer, nullable=False),
    Column("stable_revision", Integer, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("progress_deadline_s", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("ready", Integer, nullable=False),
    Column("updated", Integer, nullable=False),
    Column("active", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("last_failure", Text, nullable=False),
    moment("next_attempt_at", nullable=True),
    moment("progressed_at", nullable=True),
    Column("autoscaling", JSONB(none_as_null=True), nullable=True),
    Column("scaling", JSONB, nullable=False, server_default="{}"),
)
_KEPT: ColumnElement[bool] = replica_sets.c.deleted_at.is_(None)
Index(_OF_A_NAME_TAKEN, replica_sets.c.org_id, replica_sets.c.name, unique=True, postgresql_where=_KEPT)
Index("ix_replica_sets_created_at_replica_set_id", replica_sets.c.created_at, replica_sets.c.replica_set_id)


class SqlReplicaSetStore:
    """Rows of sets. Whoever asks sees those of their organisation; row-level security says so again."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, reference: str, caller: Caller, *, lock: bool = False) -> ReplicaSet:
        """The set of that id, deleted or not, or of that name. ReplicaSetNotFoundError."""
        named = _KEPT & (replica_sets.c.name == reference) & _visible(caller)
        query = select(replica_sets).where(or_((replica_sets.c.replica_set_id == reference) & _visible(caller), named))
        rows = (await self._connection.execute(query.with_for_update() if lock else query)).all()
        found = [row for row in rows if row.replica_set_id == reference] or rows
        if len(found) != 1:
            # Who sees every organisation may find a name twice; then only an id will do.
            raise ReplicaSetNotFoundError(reference)
        return _replica_set(found[0])

    async def page(self, caller: Caller, page: PageRequest, model: str) -> Page[ReplicaSet]:
        """The sets of one page, newest first."""
        keyset = Keyset(replica_sets.c.created_at, replica_sets.c.replica_set_id, "replica_sets", model)
        query = select(replica_sets).where(_visible(caller), _KEPT)
        if model:
            query = query.where(or_(replica_sets.c.model_id == model, replica_sets.c.model_name == model))
        rows = (await self._connection.execute(keyset.apply(query, page))).all()
        return keyset.page(rows, page, _replica_set)

    async def add(self, replica_set: ReplicaSet) -> None:
        """A new row. ReplicaSetExistsError when the organisation has a set of that name."""
        try:
            await self._connection.execute(insert(replica_sets).values(_row(replica_set)))
        except IntegrityError as error:
            if _OF_A_NAME_TAKEN in str(error):
                raise ReplicaSetExistsError(replica_set.name) from error
            raise

    async def save(self, replica_set: ReplicaSet) -> None:
        """The row as the set says."""
        key = replica_sets.c.replica_set_id == replica_set.replica_set_id
        await self._connection.execute(update(replica_sets).where(key).values(_row(replica_set)))

    async def unsettled(self) -> tuple[ReplicaSet, ...]:
        """Every set that is kept, and deleted ones that have replicas left."""
        left = exists().where(deployments.c.replica_set_id == replica_sets.c.replica_set_id, _TO_RUN)
        query = select(replica_sets).where(or_(_KEPT, left)).order_by(replica_sets.c.replica_set_id)
        return tuple(_replica_set(row) for row in (await self._connection.execute(query)).all())

    async def autoscaled(self) -> tuple[ReplicaSetId, ...]:
        """Those whose number of replicas follows the load."""
        query = select(replica_sets.c.replica_set_id).where(_KEPT, replica_sets.c.autoscaling.is_not(None))
        rows = await self._connection.execute(query.order_by(replica_sets.c.replica_set_id))
        return tuple(ReplicaSetId(each) for each in rows.scalars())

    async def standby(self) -> tuple[DeploymentId, ...]:
        """The deployments of all sets that get no requests."""
        warm = replica_sets.c.scaling["standby"]
        query = select(warm).where(_KEPT, replica_sets.c.autoscaling.is_not(None))
        rows = (await self._connection.execute(query)).scalars()
        return tuple(DeploymentId(each) for row in rows for each in row or ())

    async def sleepy(self) -> tuple[SleepyModel, ...]:
        """The models that may be without a replica, whether they are or not."""
        rows = replica_sets.c.autoscaling["min_replicas"].as_integer()
        query = select(replica_sets).where(_KEPT, rows == 0).order_by(replica_sets.c.replica_set_id)
        found = map(_replica_set, (await self._connection.execute(query)).all())
        return tuple(_sleepy(each, each.autoscaling) for each in found if each.autoscaling)

    async def members(self, ids: Collection[ReplicaSetId]) -> dict[ReplicaSetId, tuple[Member, ...]]:
        """The replicas of the sets that were not told to end, the oldest first."""
        query = (
            select(deployments, nodes.c.draining)
            .join(nodes, nodes.c.node_id == deployments.c.node_id)
            .where(deployments.c.replica_set_id.in_(ids), _TO_RUN)
            .order_by(deployments.c.created_at, deployments.c.deployment_id)
        )
        found = defaultdict[ReplicaSetId, list[Member]](list)
        for row in (await self._connection.execute(query)).all():
            found[ReplicaSetId(row.replica_set_id)].append(Member(deployment_of(row), leaving=row.draining))
        return {set_id: tuple(members) for set_id, members in found.items()}


# One that made room for another ends where it was and still waits for another place.
_TO_RUN: ColumnElement[bool] = or_(
    deployments.c.goal == Goal.RUN.value, deployments.c.status.in_([each.value for each in ACTIVE])
)


def _visible(caller: Caller) -> ColumnElement[bool]:
    return replica_sets.c.org_id == caller.org_id if not caller.sees_all else replica_sets.c.org_id.is_not(None)


_STANDING = ("reason", "ready", "updated", "active", "failures", "last_failure", "next_attempt_at", "progressed_at")
_PLAIN = (
    *("created_at", "changed_at", "deleted_at", "name", "model_name", "replicas"),
    *("revision", "newest", "stable_revision", "paused"),
)


def _replica_set(row: Row[Any]) -> ReplicaSet:
    standing = {name: row._mapping[name] for name in _STANDING}
    return ReplicaSet(
        replica_set_id=ReplicaSetId(row.replica_set_id),
        org_id=OrgId(row.org_id),
        user_id=UserId(row.user_id),
        model_id=ModelId(row.model_id),
        templates={int(revision): _template(each) for revision, each in row.templates.items()},
        progress_deadline=timedelta(seconds=row.progress_deadline_s),
        standing=Standing(status=SetStatus(row.status), **standing),
        autoscaling=_autoscaling(row.autoscaling),
        scaling=ScalingState.read(row.scaling or {}),
        **{name: row._mapping[name] for name in _PLAIN},
    )


def _sleepy(replica_set: ReplicaSet, asked: Autoscaling) -> SleepyModel:
    return SleepyModel(
        org_id=replica_set.org_id,
        model_name=replica_set.model_name,
        replica_set_id=replica_set.replica_set_id,
        hold_seconds=asked.hold_seconds,
        standing=replica_set.standing.reason,
        created_at=replica_set.created_at,
    )


def _autoscaling(row: Mapping[str, Any] | None) -> Autoscaling | None:
    if row is None:
        return None
    return Autoscaling(**{each.name: row[each.name] for each in fields(Autoscaling) if each.name in row})


def _template(row: Mapping[str, Any]) -> Template:
    """Another version may have written it: with fewer fields, or with some that this one does not know."""
    known = {each.name for each in fields(EngineOptions)}
    asked = {name: value for name, value in row.get("engine_options", {}).items() if name in known}
    return Template(
        image=row["image"],
        environment=row["environment"],
        model_digest=row["model_digest"],
        options=options_of(row.get("options", {})),
        engine_options=EngineOptions(**asked),
        program=Program.read(row.get("program", {})),
        model_revision=row.get("model_revision", 0),
        adapters=tuple(map(Adapter.read, row.get("adapters", ()))),
    )


def _row(replica_set: ReplicaSet) -> dict[str, Any]:
    ids = ("replica_set_id", "org_id", "user_id", "model_id")
    standing: dict[str, datetime | str | int | None] = {name: getattr(replica_set.standing, name) for name in _STANDING}
    return {
        **{name: getattr(replica_set, name) for name in (*ids, *_PLAIN)},
        "templates": {str(revision): asdict(each) for revision, each in replica_set.templates.items()},
        "progress_deadline_s": int(replica_set.progress_deadline.total_seconds()),
        "status": replica_set.standing.status.value,
        "autoscaling": asdict(replica_set.autoscaling) if replica_set.autoscaling else None,
        "scaling": replica_set.scaling.row(),
        **standing,
    }
