"""Routing rules in PostgreSQL: a row for each organisation."""

from dataclasses import asdict

from sqlalchemy import Column, Integer, Table, Text, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.routing.rules import RoutingRulesChangedError, Rule, Rules
from mesh.identity import OrgId, UserId
from mesh.sql.tables import metadata, moment

routing_rules = Table(
    "routing_rules",
    metadata,
    Column("org_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    moment("changed_at"),
    Column("rules", JSONB, nullable=False),
    Column("default_model", Text, nullable=False),
    Column("fallback_model", Text, nullable=False),
    Column("version", Integer, nullable=False),
)


class SqlRulesStore:
    """Rows of rules."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, org_id: OrgId, *, lock: bool = False) -> Rules:
        """The organisation's rules, empty before they were set."""
        query = select(routing_rules).where(routing_rules.c.org_id == org_id)
        row = (await self._connection.execute(query.with_for_update() if lock else query)).first()
        if row is None:
            return Rules(org_id)
        return Rules(
            org_id=OrgId(row.org_id),
            user_id=UserId(row.user_id),
            changed_at=row.changed_at,
            rules=tuple(Rule(**rule) for rule in row.rules),
            default_model=row.default_model,
            fallback_model=row.fallback_model,
            version=row.version,
        )

    async def save(self, rules: Rules) -> None:
        """The next version. RoutingRulesChangedError when another one was made at the same time."""
        row = {
            "org_id": rules.org_id,
            "user_id": rules.user_id,
            "changed_at": rules.changed_at,
            "rules": [asdict(rule) for rule in rules.rules],
            "default_model": rules.default_model,
            "fallback_model": rules.fallback_model,
            "version": rules.version,
        }
        written = insert(routing_rules).values(row)
        newer = routing_rules.c.version < written.excluded.version
        statement = written.on_conflict_do_update(
            index_elements=[routing_rules.c.org_id], set_=row, where=newer
        ).returning(routing_rules.c.version)
        if (await self._connection.execute(statement)).first() is None:
            raise RoutingRulesChangedError(rules.version)
