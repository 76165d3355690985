"""Processes over one database hear each other's words at once, each word once, and their own not at all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy import text

from mesh.identity import SYSTEM
from mesh.sql.database import Database
from mesh.sql.notices import Notices
from tests.fakes.eventually import eventually


class Ear:
    """A process, as far as words go."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.heard: list[str] = []
        self.notices = Notices(database, "test_words", self.heard.append)

    async def has_heard(self, count: int) -> bool:
        return len(self.heard) >= count


@asynccontextmanager
async def listening(url: str, count: int) -> AsyncIterator[list[Ear]]:
    """So many processes that listen."""
    async with AsyncExitStack() as stack:
        ears, tasks = [], []
        for _ in range(count):
            database = Database(url)
            stack.push_async_callback(database.dispose)
            ears.append(Ear(database))
            tasks.append(asyncio.ensure_future(ears[-1].notices.step()))

        async def all_listen() -> bool:
            return all(ear.notices.listening for ear in ears)

        await eventually(all_listen)
        yield ears
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_others_hear_each_word_once_and_the_speaker_does_not(database: str) -> None:
    async with listening(database, 3) as (one, two, three):
        for word in ("node a", "node b", "node a"):
            one.notices.say(word)
        await eventually(lambda: two.has_heard(2))
        await eventually(lambda: three.has_heard(2))
        assert sorted(two.heard) == sorted(three.heard) == ["node a", "node b"]
        assert one.heard == []


async def test_many_words_are_more_than_one_notice(database: str) -> None:
    words = [f"node {number:0>200}" for number in range(200)]
    async with listening(database, 2) as (one, two):
        for word in words:
            one.notices.say(word)
        await eventually(lambda: two.has_heard(200))
        assert two.heard == words


async def test_a_connection_that_dies_ends_the_step_and_drops_what_is_said(database: str) -> None:
    async with listening(database, 1) as (one,):
        async with one.database.writing(SYSTEM) as connection:
            others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
            await connection.execute(text(f"SELECT pg_terminate_backend(pid) {others}"))

        async def deaf() -> bool:
            return not one.notices.listening

        await eventually(deaf, 15)
        one.notices.say("nobody hears it")
