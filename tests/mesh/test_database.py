"""A connection sees its caller's organisation and no other."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from mesh.errors import UnavailableError
from mesh.identity import SYSTEM, Caller, CallerKind, OrgId
from mesh.sql.database import Database
from mesh.sql.security import protection


def member(org: str) -> Caller:
    return Caller(CallerKind.USER, f"user-of-{org}", OrgId(org))


async def with_rows(database: Database) -> None:
    async with database.writing(SYSTEM) as connection:
        await connection.execute(text("CREATE TABLE things (org_id text NOT NULL, name text NOT NULL)"))
        for statement in protection("things"):
            await connection.execute(text(statement))
        await connection.execute(text("INSERT INTO things VALUES ('a', 'of a'), ('b', 'of b')"))
        await connection.commit()


async def names(database: Database, caller: Caller) -> list[str]:
    async with database.reading(caller) as connection:
        return list(await connection.scalars(text("SELECT name FROM things ORDER BY name")))


async def test_each_caller_sees_their_own_rows_on_a_shared_connection(empty_database: str) -> None:
    database = Database(empty_database, pool_size=1)
    try:
        await with_rows(database)
        for _ in range(2):
            assert await names(database, member("a")) == ["of a"]
            assert await names(database, member("b")) == ["of b"]
            assert await names(database, SYSTEM) == ["of a", "of b"]
            assert await names(database, member("")) == []
    finally:
        await database.dispose()


async def test_a_row_cannot_be_written_into_another_organisation(empty_database: str) -> None:
    database = Database(empty_database, pool_size=1)
    try:
        await with_rows(database)
        with pytest.raises(ProgrammingError, match="row-level security"):
            async with database.writing(member("a")) as connection:
                await connection.execute(text("INSERT INTO things VALUES ('b', 'smuggled')"))
        assert await names(database, SYSTEM) == ["of a", "of b"]
    finally:
        await database.dispose()


async def test_what_is_not_committed_is_not_kept(empty_database: str) -> None:
    database = Database(empty_database, pool_size=1)
    try:
        await with_rows(database)
        async with database.writing(member("a")) as connection:
            await connection.execute(text("INSERT INTO things VALUES ('a', 'forgotten')"))
        assert await names(database, member("a")) == ["of a"]
    finally:
        await database.dispose()


async def test_locks_of_a_process_that_stands_still_are_given_up(empty_database: str) -> None:
    paused, other = Database(empty_database, pool_size=1), Database(empty_database, pool_size=1)
    try:
        await with_rows(paused)
        with pytest.raises(UnavailableError):
            async with paused.writing(SYSTEM) as standing:
                await standing.execute(text("UPDATE things SET name = 'mine'"))
                async with other.writing(SYSTEM) as going:
                    await going.execute(text("UPDATE things SET name = 'theirs'"))
                    await going.commit()
                await standing.execute(text("SELECT 1"))
        assert await names(other, SYSTEM) == ["theirs", "theirs"]
    finally:
        await paused.dispose()
        await other.dispose()
