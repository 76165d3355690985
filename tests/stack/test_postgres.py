"""The embedded PostgreSQL is real, private to its user, and gives each test a database of its own."""

from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from stack.postgres import Postgres, PostgresError, socket_directory


def plain(url: str) -> str:
    return url.replace("+asyncpg", "")


async def test_the_role_owns_its_database_and_is_no_superuser(postgres: Postgres, database: str) -> None:
    connection = await asyncpg.connect(plain(database))
    role = await connection.fetchrow(
        "SELECT rolsuper, rolbypassrls, rolcreatedb FROM pg_roles WHERE rolname = current_user"
    )
    await connection.execute("CREATE TABLE mine (id int)")
    version = await connection.fetchval("SHOW server_version_num")
    addresses = await connection.fetchval("SHOW listen_addresses")
    await connection.close()
    assert tuple(role) == (False, False, False)
    assert int(version) >= 180000
    assert addresses == ""


async def test_forced_row_level_security_binds_the_role(empty_database: str) -> None:
    connection = await asyncpg.connect(plain(empty_database))
    await connection.execute("CREATE TABLE rows (org text); INSERT INTO rows VALUES ('a'), ('b')")
    await connection.execute("ALTER TABLE rows ENABLE ROW LEVEL SECURITY; ALTER TABLE rows FORCE ROW LEVEL SECURITY")
    await connection.execute("CREATE POLICY own ON rows USING (org = current_setting('aiops.org', true))")
    await connection.execute("SELECT set_config('aiops.org', 'a', false)")
    rows = await connection.fetch("SELECT org FROM rows")
    await connection.close()
    assert [row["org"] for row in rows] == ["a"]


async def test_each_test_has_its_own_database(database: str, empty_database: str) -> None:
    assert database != empty_database


async def test_a_wrong_password_is_refused(postgres: Postgres, database: str) -> None:
    password = postgres.password_file.read_text()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(plain(database).replace(password, "wrong"))


def test_the_password_file_is_private_and_initialising_again_keeps_it(postgres: Postgres) -> None:
    before = postgres.password_file.read_text()
    postgres.initialise()
    assert postgres.password_file.read_text() == before
    assert postgres.password_file.stat().st_mode & 0o777 == 0o600


def test_a_socket_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "sockets").symlink_to(tmp_path / "elsewhere")
    server = replace(Postgres.at(tmp_path / "home"), sockets=tmp_path / "sockets")
    with pytest.raises(PostgresError, match="not this user's directory"):
        server.initialise()


def test_a_long_home_has_its_socket_in_a_short_place() -> None:
    home = Path("/") / ("long" * 40)
    assert len(str(socket_directory(home))) < 80
    assert socket_directory(home) == socket_directory(home)
    assert socket_directory(home) != socket_directory(home / "other")
