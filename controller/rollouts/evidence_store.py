"""What the ledger has seen of a rollout's two targets, at the same time."""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, func, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.rollouts.decide import SETTLED
from controller.rollouts.model import Evidence, Rollout, Sight
from controller.usage.store import usage_records

_SEEN = usage_records.c
# The request was for the target, whoever answered it in the end. What ended otherwise, though its answer had begun,
# is told by Envoy's flags: the upstream's connection, its protocol, a time-out.
_BROKEN = _SEEN.flags.op("~")("(^|,)(UC|UF|UPE|UR|UT|UMSDR|SI|LR)(,|$)")
_FAILED = or_(_SEEN.status == 0, _SEEN.status == 429, _SEEN.status >= 500, _SEEN.degraded, _BROKEN)


class SqlEvidenceStore:
    """Sums over the ledger's rows of one route."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def sight(self, rollout: Rollout, now: datetime) -> Sight:
        """What both targets did since the candidate has its weight, at most within the window."""
        spec = rollout.spec
        since = now - spec.limits.window
        # Before the first step the stable target is looked at alone, as it was before.
        began = rollout.weight_since + SETTLED if rollout.weight else since
        of_route = and_(
            _SEEN.route_id == rollout.route_id,
            _SEEN.intended_target.in_([spec.stable, spec.candidate]),
            _SEEN.ended_at >= max(since, began),
            _SEEN.started_at >= began,
            not_(_SEEN.mirrored),
        )
        rows = (await self._connection.execute(_sums(of_route))).all()
        looked_at = max((now - max(since, began)).total_seconds(), 1.0)
        found = {row.intended_target: _evidence(row, looked_at) for row in rows}
        stable, candidate = found.get(spec.stable, Evidence()), found.get(spec.candidate, Evidence())
        meanwhile = stable.requests
        if candidate.last_at is not None:
            later = and_(of_route, _SEEN.intended_target == spec.stable, _SEEN.ended_at > candidate.last_at)
            meanwhile = await self._connection.scalar(select(func.count()).where(later)) or 0
        return Sight(stable, candidate, meanwhile)


def _sums(wanted: ColumnElement[bool]) -> Any:
    answered, streamed = not_(_FAILED), and_(not_(_FAILED), _SEEN.streamed, _SEEN.first_byte_ms > 0)

    def quantile(share: float, column: Any, among: ColumnElement[bool]) -> Any:
        return func.coalesce(func.percentile_cont(share).within_group(column).filter(among), 0.0)

    return (
        select(
            _SEEN.intended_target,
            func.count().label("requests"),
            func.count().filter(_FAILED).label("failed"),
            func.count().filter(streamed).label("streams"),
            quantile(0.5, _SEEN.duration_ms, answered).label("p50_ms"),
            quantile(0.95, _SEEN.duration_ms, answered).label("p95_ms"),
            quantile(0.95, _SEEN.first_byte_ms, streamed).label("first_token_p95_ms"),
            func.max(_SEEN.ended_at).label("last_at"),
        )
        .where(wanted)
        .group_by(_SEEN.intended_target)
    )


def _evidence(row: Row[Any], looked_at_s: float) -> Evidence:
    return Evidence(
        requests=row.requests,
        failed=row.failed,
        per_s=row.requests / looked_at_s,
        p50_ms=row.p50_ms,
        p95_ms=row.p95_ms,
        streams=row.streams,
        first_token_p95_ms=row.first_token_p95_ms,
        last_at=row.last_at,
    )
