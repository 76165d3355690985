"""What gateways say of the load of sets, and what engines say, in PostgreSQL."""

from collections.abc import Collection, Sequence
from datetime import timedelta

from sqlalchemy import Column, Float, Integer, Table, Text, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.autoscaling.model import GONE_AFTER, Reported, SetLoad
from controller.nodes.model import EngineLoad
from controller.nodes.rows import container_of
from controller.nodes.store import node_containers
from controller.replica_sets.model import ReplicaSetId
from controller.replica_sets.store import replica_sets
from mesh.sql.tables import metadata, moment

replica_set_loads = Table(
    "replica_set_loads",
    metadata,
    Column("replica_set_id", Text, primary_key=True),
    Column("reporter", Text, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("in_flight", Integer, nullable=False),
    Column("held", Integer, nullable=False),
    Column("idle_s", Float, nullable=False),
    moment("reported_at"),
)


class SqlLoadStore:
    """Rows of loads."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def report(self, reporter: str, loads: Sequence[SetLoad]) -> None:
        """Replaces what a gateway said of these sets; unknown sets are passed over."""
        ids = sorted({each.replica_set_id for each in loads})
        known = await self._connection.execute(
            select(replica_sets.c.replica_set_id, replica_sets.c.org_id).where(replica_sets.c.replica_set_id.in_(ids))
        )
        orgs = {row.replica_set_id: row.org_id for row in known}
        now = func.clock_timestamp()
        rows = [
            {
                "replica_set_id": each.replica_set_id,
                "reporter": reporter,
                "org_id": orgs[each.replica_set_id],
                "in_flight": each.in_flight,
                "held": each.held,
                "idle_s": each.idle.total_seconds(),
            }
            for each in sorted(loads, key=lambda each: each.replica_set_id)
            if each.replica_set_id in orgs
        ]
        if rows:
            told = insert(replica_set_loads).values(reported_at=now)
            changes = {name: told.excluded[name] for name in ("in_flight", "held", "idle_s", "reported_at")}
            key = list(replica_set_loads.primary_key.columns)
            await self._connection.execute(told.on_conflict_do_update(index_elements=key, set_=changes), rows)

    async def forget(self) -> None:
        """Removes what gateways said that are gone."""
        old = replica_set_loads.c.reported_at < func.clock_timestamp() - GONE_AFTER
        await self._connection.execute(delete(replica_set_loads).where(old))

    async def of(self, set_id: ReplicaSetId) -> tuple[Reported, ...]:
        """What gateways say of a set."""
        age = func.extract("epoch", func.clock_timestamp() - replica_set_loads.c.reported_at).label("age")
        query = select(replica_set_loads, age).where(replica_set_loads.c.replica_set_id == set_id)
        return tuple(
            Reported(
                SetLoad(set_id, row.in_flight, row.held, timedelta(seconds=row.idle_s)),
                timedelta(seconds=float(row.age)),
            )
            for row in (await self._connection.execute(query)).all()
        )

    async def engines(self, deployment_ids: Collection[str]) -> dict[str, EngineLoad]:
        """What the engines of these deployments say of themselves, as far as they do."""
        of = node_containers.c.content["workload_id"].as_string()
        query = select(node_containers.c.content).where(of.in_(deployment_ids))
        found = map(container_of, (await self._connection.execute(query)).scalars())
        return {each.workload_id: each.engine_load for each in found if each.engine_load is not None}
