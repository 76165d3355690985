"""A new platform gets its first user, once, and its password is kept where only the operator reads it."""

import asyncio
import logging
from pathlib import Path

import pytest

from controller.iam.convert import EVENTS
from controller.iam.first_admin import PASSWORD_FILE, ensure_first_admin
from controller.iam.passwords import Passwords
from controller.work import UnitOfWork
from mesh.identity import SYSTEM
from mesh.loops import Wake
from mesh.sql.database import Database
from tests.fakes.clock import ManualClock

EMAIL = "admin@localhost"


class Controller:
    """What a starting controller brings."""

    def __init__(self, url: str, home: Path) -> None:
        self.home = home
        self.database = Database(url)
        self.clock = ManualClock()
        self.unit_of_work = UnitOfWork(self.database, EVENTS, self.clock, Wake())
        self.passwords = Passwords(parallel=1)

    async def start(self, given_password: str = "") -> None:
        await ensure_first_admin(self.unit_of_work, self.passwords, self.clock, self.home, given_password)

    async def accepts(self, password: str) -> bool:
        async with self.unit_of_work.reading(SYSTEM) as work:
            admin = await work.users.find(EMAIL)
        assert admin is not None
        return await self.passwords.matches(admin.password_hash, password)

    async def close(self) -> None:
        self.passwords.close()
        await self.database.dispose()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def kept_file(home: Path) -> Path:
    """The password file of an earlier database."""
    home.mkdir()
    file = home / PASSWORD_FILE
    file.write_text("the earlier password\n")
    return file


def files_in(directory: Path) -> dict[str, int]:
    """Names and permissions."""
    return {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}


async def test_a_password_is_made_and_written_where_only_the_operator_reads_it(
    database: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    controller = Controller(database, home)
    await controller.start()
    password = (home / PASSWORD_FILE).read_text().strip()
    assert len(password) >= 24
    assert await controller.accepts(password)
    assert password not in caplog.text
    assert files_in(home) == {PASSWORD_FILE: 0o600}
    await controller.close()


async def test_a_second_start_changes_nothing(database: str, home: Path) -> None:
    controller = Controller(database, home)
    await controller.start()
    password = (home / PASSWORD_FILE).read_text().strip()
    await controller.start("another password")
    assert await controller.accepts(password)
    assert (home / PASSWORD_FILE).read_text().strip() == password
    await controller.close()


async def test_a_set_password_is_used_and_written_nowhere(database: str, home: Path) -> None:
    controller = Controller(database, home)
    await controller.start("the password that was set")
    assert await controller.accepts("the password that was set")
    assert not (home / PASSWORD_FILE).exists()
    await controller.close()


async def test_the_file_of_an_earlier_database_stays_true(database: str, home: Path, kept_file: Path) -> None:
    controller = Controller(database, home)
    await controller.start()
    assert await controller.accepts("the earlier password")
    assert files_in(home) == {PASSWORD_FILE: 0o600}
    await controller.close()


async def test_a_file_that_would_be_wrong_is_removed(database: str, home: Path, kept_file: Path) -> None:
    controller = Controller(database, home)
    await controller.start("the password that was set")
    assert files_in(home) == {}
    await controller.close()


async def test_a_home_that_cannot_be_written_is_named(database: str, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    controller = Controller(database, tmp_path / "home")
    with pytest.raises(RuntimeError, match="home/admin-password"):
        await controller.start()
    await controller.close()


async def test_controllers_that_start_at_once_make_one_user(database: str, home: Path) -> None:
    controllers = [Controller(database, home) for _ in range(4)]
    await asyncio.gather(*(controller.start() for controller in controllers))
    assert await controllers[0].accepts((home / PASSWORD_FILE).read_text().strip())
    for controller in controllers:
        await controller.close()
