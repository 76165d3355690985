"""Rollouts and their decisions in PostgreSQL."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, ColumnElement, Index, Integer, Row, Table, Text, insert, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.rollouts.model import (
    UNSETTLED,
    Action,
    Decision,
    Evidence,
    Limits,
    Rollout,
    RolloutId,
    RolloutNotFoundError,
    Sight,
    Spec,
    Status,
    Step,
)
from controller.routing.model import RouteId
from mesh.identity import Caller, OrgId, UserId
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.tables import metadata, moment, owner_columns

rollouts = Table(
    "rollouts",
    metadata,
    Column("rollout_id", Text, primary_key=True),
    *owner_columns(),
    moment("created_at"),
    moment("changed_at"),
    moment("ended_at", nullable=True),
    Column("route_id", Text, nullable=False, index=True),
    Column("route_name", Text, nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("weight", Integer, nullable=False),
    moment("weight_since"),
    Column("remembered", JSONB, nullable=False),
)
Index("ix_rollouts_created_at_rollout_id", rollouts.c.created_at, rollouts.c.rollout_id)

rollout_decisions = Table(
    "rollout_decisions",
    metadata,
    Column("rollout_id", Text, primary_key=True),
    moment("at"),
    Column("number", Integer, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("weight", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("sight", JSONB, nullable=False),
)
_UNSETTLED = rollouts.c.status.in_([status.value for status in UNSETTLED])
_SPANS = ("window", "silence")


class SqlRolloutStore:
    """Rows of rollouts. Whoever asks sees those of their organisation; row-level security says so again."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, rollout_id: str, caller: Caller, *, lock: bool = False) -> Rollout:
        """One rollout. RolloutNotFoundError."""
        query = select(rollouts).where(rollouts.c.rollout_id == rollout_id, _visible(caller))
        row = (await self._connection.execute(query.with_for_update() if lock else query)).first()
        if row is None:
            raise RolloutNotFoundError(rollout_id)
        return _rollout(row)

    async def claim(self, rollout_id: RolloutId) -> Rollout | None:
        """The rollout, locked; None when it has settled or another one has it."""
        query = select(rollouts).where(rollouts.c.rollout_id == rollout_id, _UNSETTLED)
        row = (await self._connection.execute(query.with_for_update(skip_locked=True))).first()
        return None if row is None else _rollout(row)

    async def page(self, caller: Caller, page: PageRequest, route: str) -> Page[Rollout]:
        """The rollouts of one page, newest first."""
        keyset = Keyset(rollouts.c.created_at, rollouts.c.rollout_id, "rollouts", route)
        query = select(rollouts).where(_visible(caller))
        if route:
            query = query.where(or_(rollouts.c.route_id == route, rollouts.c.route_name == route))
        return keyset.page((await self._connection.execute(keyset.apply(query, page))).all(), page, _rollout)

    async def unsettled(self) -> tuple[Rollout, ...]:
        """Every rollout that is on its way, the oldest first."""
        query = select(rollouts).where(_UNSETTLED).order_by(rollouts.c.created_at)
        return tuple(_rollout(row) for row in (await self._connection.execute(query)).all())

    async def decisions(self, rollout_id: RolloutId) -> tuple[Decision, ...]:
        """What was decided of a rollout, oldest first."""
        wanted = rollout_decisions.c.rollout_id == rollout_id
        query = select(rollout_decisions).where(wanted).order_by(rollout_decisions.c.number)
        return tuple(_decision(row) for row in (await self._connection.execute(query)).all())

    async def add(self, rollout: Rollout, decision: Decision) -> None:
        """A new row and its first decision."""
        await self._connection.execute(insert(rollouts).values(_row(rollout)))
        await self.remember(rollout, decision)

    async def save(self, rollout: Rollout) -> None:
        """The row as the rollout says."""
        key = rollouts.c.rollout_id == rollout.rollout_id
        await self._connection.execute(update(rollouts).where(key).values(_row(rollout)))

    async def remember(self, rollout: Rollout, decision: Decision) -> None:
        """One more decision. Whoever calls has the rollout locked, so its number is the next one."""
        known = rollout_decisions.c.rollout_id == rollout.rollout_id
        query = select(rollout_decisions.c.number).where(known).order_by(rollout_decisions.c.number.desc()).limit(1)
        number = (await self._connection.scalar(query) or 0) + 1
        row = {
            "rollout_id": rollout.rollout_id,
            "number": number,
            "org_id": rollout.org_id,
            "at": decision.at,
            "action": decision.action.value,
            "weight": decision.weight,
            "reason": decision.reason,
            "sight": {
                "stable": _seen_row(decision.sight.stable),
                "candidate": _seen_row(decision.sight.candidate),
                "meanwhile": decision.sight.meanwhile,
            },
        }
        await self._connection.execute(insert(rollout_decisions).values(row))


def _visible(caller: Caller) -> ColumnElement[bool]:
    return rollouts.c.org_id == caller.org_id if not caller.sees_all else rollouts.c.org_id.is_not(None)


_PLAIN = ("created_at", "changed_at", "ended_at", "route_name", "reason", "step", "weight", "weight_since")


def _rollout(row: Row[Any]) -> Rollout:
    return Rollout(
        rollout_id=RolloutId(row.rollout_id),
        org_id=OrgId(row.org_id),
        user_id=UserId(row.user_id),
        route_id=RouteId(row.route_id),
        spec=_spec(row.spec),
        status=Status(row.status),
        remembered=_seen(row.remembered),
        **{name: row._mapping[name] for name in _PLAIN},
    )


def _row(rollout: Rollout) -> dict[str, Any]:
    limits = asdict(rollout.spec.limits)
    return {
        **{name: getattr(rollout, name) for name in ("rollout_id", "org_id", "user_id", "route_id", *_PLAIN)},
        "spec": {
            **asdict(rollout.spec),
            "steps": [{"weight": step.weight, "hold_s": step.hold.total_seconds()} for step in rollout.spec.steps],
            "limits": {**limits, **{name: limits[name].total_seconds() for name in _SPANS}},
        },
        "status": rollout.status.value,
        "remembered": _seen_row(rollout.remembered),
    }


def _spec(row: Mapping[str, Any]) -> Spec:
    limits = {**row["limits"], **{name: timedelta(seconds=row["limits"][name]) for name in _SPANS}}
    steps = tuple(Step(step["weight"], timedelta(seconds=step["hold_s"])) for step in row["steps"])
    return Spec(**{**row, "steps": steps, "limits": Limits(**limits)})


def _decision(row: Row[Any]) -> Decision:
    seen = row.sight
    sight = Sight(_seen(seen["stable"]), _seen(seen["candidate"]), seen["meanwhile"])
    return Decision(row.at, Action(row.action), row.weight, row.reason, sight)


def _seen(row: Mapping[str, Any]) -> Evidence:
    """Another version may have written it, with more than this one knows."""
    known = {each.name: row[each.name] for each in fields(Evidence) if each.name in row}
    last_at = datetime.fromisoformat(known["last_at"]) if known.get("last_at") else None
    return Evidence(**{**known, "last_at": last_at})


def _seen_row(evidence: Evidence) -> dict[str, Any]:
    last_at = evidence.last_at.isoformat() if evidence.last_at is not None else None
    return {**asdict(evidence), "last_at": last_at}
