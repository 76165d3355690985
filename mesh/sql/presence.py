"""Whether a process is there, as its database sees it: a lock that ends with the connection that holds it."""

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, cast, column, exists, func, select, table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.loops import attempt
from mesh.sql.database import Database

# Locks are two numbers: this one says what for, the other one is a hash of the name.
_SPACE = 0x70726573
_LOCKS = table("pg_locks", *map(column, ("locktype", "database", "classid", "objid", "objsubid", "granted")))
_DATABASES = table("pg_database", column("oid"), column("datname"))
_TAKE = text(f"SELECT pg_advisory_lock({_SPACE}, hashtext(:name))")


class Presence:
    """Says that the bearer of a name is there while `keep` is called now and then, until `end` or its process's end."""

    def __init__(self, database: Database, name: str) -> None:
        self._database, self._name = database, name
        self._connection: AsyncConnection | None = None
        self._raw: Any = None

    async def keep(self) -> None:
        """Takes the lock, again where the connection was lost. Raises what the database raises."""
        if self._raw is not None and not self._raw.is_closed():
            return
        await self.end()
        engine = self._database.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._connection = await engine.connect()
        await self._connection.execute(_TAKE, {"name": self._name})
        self._raw = (await self._connection.get_raw_connection()).driver_connection

    async def end(self) -> None:
        """Gives the lock up."""
        connection, self._connection, self._raw = self._connection, None, None
        if connection is not None:
            # The lock belongs to the connection, so that does not go back to the pool.
            await attempt(connection.invalidate())
            await attempt(connection.close())


def is_present(name: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether somebody of that name is there."""
    mine = _LOCKS.c.database.in_(select(_DATABASES.c.oid).where(_DATABASES.c.datname == func.current_database()))
    # PostgreSQL shows the signed hash as an unsigned number.
    of_name = cast(_LOCKS.c.objid, BigInteger) == cast(func.hashtext(name), BigInteger).op("&")(0xFFFFFFFF)
    held = (_LOCKS.c.locktype == "advisory") & (_LOCKS.c.objsubid == 2) & _LOCKS.c.granted
    return exists().where(held, cast(_LOCKS.c.classid, BigInteger) == _SPACE, of_name, mine)
