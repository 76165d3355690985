"""Flags in PostgreSQL."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Column, Integer, Row, Table, Text, delete, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.flags.model import Flag, Rule, Wish
from mesh.identity import OrgId, UserId
from mesh.sql.paging import Offsets, Page, PageRequest
from mesh.sql.tables import metadata, moment

flags = Table(
    "flags",
    metadata,
    Column("org_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    moment("changed_at"),
    Column("wish", JSONB, nullable=False),
    Column("version", Integer, nullable=False),
)


class SqlFlagStore:
    """Rows of flags."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, org_id: OrgId, name: str, *, lock: bool = False) -> Flag | None:
        """The organisation's flag of that name."""
        query = select(flags).where(flags.c.org_id == org_id, flags.c.name == name)
        row = (await self._connection.execute(query.with_for_update() if lock else query)).first()
        return None if row is None else _flag(row)

    async def page(self, org_id: OrgId, page: PageRequest) -> Page[Flag]:
        """The organisation's flags of one page, by name."""
        offsets = Offsets("flags", org_id)
        query = select(flags).where(flags.c.org_id == org_id).order_by(flags.c.name)
        rows = await self._connection.execute(query.offset(offsets.start(page)).limit(page.limit + 1))
        return offsets.page([_flag(row) for row in rows], page)

    async def save(self, flag: Flag) -> None:
        """The row as the flag says."""
        row = {
            "org_id": flag.org_id,
            "name": flag.wish.name,
            "user_id": flag.user_id,
            "changed_at": flag.changed_at,
            "wish": asdict(flag.wish),
            "version": flag.version,
        }
        await self._connection.execute(
            insert(flags).values(row).on_conflict_do_update(index_elements=list(flags.primary_key.columns), set_=row)
        )

    async def delete(self, flag: Flag) -> None:
        """Takes the row away."""
        mine = (flags.c.org_id == flag.org_id) & (flags.c.name == flag.wish.name)
        await self._connection.execute(delete(flags).where(mine))


def _flag(row: Row[Any]) -> Flag:
    rules = tuple(Rule(**{**rule, **_lists(rule)}) for rule in row.wish["rules"])
    wish = Wish(**{**row.wish, "rules": rules})
    return Flag(OrgId(row.org_id), UserId(row.user_id), row.changed_at, wish, row.version)


def _lists(rule: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(rule[name]) for name in ("user_ids", "org_ids")}
