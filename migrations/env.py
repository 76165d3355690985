"""What Alembic runs: all migrations in one transaction, under a lock, so that several controllers may start at once."""

import asyncio
import os
from typing import Any

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from controller.tables import all_tables

# Any number will do, as long as every controller takes the same.
_LOCK = 4_711_001


def migrate(connection: Connection) -> None:
    """Brings the schema of one database to the wanted revision."""
    context.configure(connection=connection, target_metadata=all_tables(), compare_type=True)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.run_migrations()


async def _online(url: str) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
            await connection.commit()
    finally:
        await engine.dispose()


_given: Any = context.config.attributes.get("connection")
if isinstance(_given, Connection):
    migrate(_given)
else:
    asyncio.run(_online(context.config.attributes.get("url") or os.environ["AIOPS_DATABASE_URL"]))
