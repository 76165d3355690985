"""A database that others use up: tables that are locked, and a way to it on which every answer takes its time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import asyncpg

from mesh.loops import Wake
from stack.postgres import ROLE, SOCKET_NAME, SUPERUSER, Postgres


@asynccontextmanager
async def locked(postgres: Postgres, *tables: str) -> AsyncIterator[None]:
    """Nobody else reads or writes the tables until the block ends."""
    connection = await asyncpg.connect(host=str(postgres.sockets), user=SUPERUSER, database=ROLE)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {', '.join(tables)}")
            yield
    finally:
        await connection.close()


@dataclass
class SlowWay:
    """A way to the database by a socket of its own. Each piece of an answer arrives so much later."""

    postgres: Postgres
    directory: Path
    delay: timedelta = timedelta()

    @property
    def url(self) -> str:
        """The database's URL by this way."""
        return self.postgres.url().replace(quote(str(self.postgres.sockets)), quote(str(self.directory)))

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        far_reader, far_writer = await asyncio.open_unix_connection(self.postgres.socket_path)
        try:
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(self._copy(reader, far_writer, slowly=False))
                await self._copy(far_reader, writer, slowly=True)
                asking.cancel()
        finally:
            far_writer.close()
            writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slowly: bool) -> None:
        with suppress(OSError):
            while content := await reader.read(65536):
                if slowly and self.delay:
                    await Wake().wait(self.delay)
                writer.write(content)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def slow_way(postgres: Postgres, directory: Path) -> AsyncIterator[SlowWay]:
    """A way that is as fast as any until it is told to be slow; open while the block lasts."""
    way = SlowWay(postgres, directory)
    server = await asyncio.start_unix_server(way.carry, directory / SOCKET_NAME)
    try:
        yield way
    finally:
        server.close()
